use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rbuild_core::registry::Secret;
use rbuild_core::remote::{Commit, GitAuthorization, GitError, GitOptions, GitSource, Place, checkout, resolve};

use crate::common::http::{Reply, Server};

const TIME: i64 = 1_600_000_000;

/// A repository that git made.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(self.folder.path(), arguments)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn source(&self) -> GitSource {
        GitSource::local(self.folder.path().to_str().unwrap())
    }

    fn at(&self, reference: &str) -> GitSource {
        GitSource { reference: Some(reference.to_owned()), ..self.source() }
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let date = format!("{TIME} +0000");
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", &date)
        .env("GIT_COMMITTER_DATE", &date)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct Checkout {
    parent: tempfile::TempDir,
    result: Result<Commit, GitError>,
}

impl Checkout {
    fn of(source: &GitSource) -> Self {
        Self::with(source, &GitOptions::default())
    }

    fn with(source: &GitSource, options: &GitOptions) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let result = checkout(source, &parent.path().join("into"), options);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "temporary files are gone");
        Self { parent, result }
    }

    fn error(self) -> GitError {
        self.result.unwrap_err()
    }

    fn files(&self) -> Vec<String> {
        assert!(self.result.is_ok(), "{:?}", self.result);
        let root = self.parent.path().join("into");
        let walk = walkdir::WalkDir::new(&root).min_depth(1).sort_by_file_name();
        let names = walk.into_iter().map(|entry| entry.unwrap());
        let names = names.filter(|entry| !entry.file_type().is_dir());
        names.map(|entry| entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.parent.path().join("into").join(path)).unwrap()
    }
}

#[test]
fn checks_out_what_is_named() {
    let repository = Repository::new();
    let first = repository.write("f", "one").commit();
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "x", "heavy"]);
    let heavy = repository.git(&["rev-parse", "heavy"]);
    repository.git(&["update-ref", "refs/pull/7/head", &first]);
    repository.git(&["checkout", "-q", "-b", "feature/x"]);
    let second = repository.write("f", "two").commit();
    repository.git(&["checkout", "-q", "main"]);
    let third = repository.write("f", "three").commit();

    for (reference, commit, text) in [
        (None, &third, "three"),
        (Some("main"), &third, "three"),
        (Some("light"), &first, "one"),
        (Some("heavy"), &first, "one"),
        (Some("refs/tags/heavy"), &first, "one"),
        (Some("tags/light"), &first, "one"),
        (Some("feature/x"), &second, "two"),
        (Some("refs/heads/feature/x"), &second, "two"),
        (Some("refs/pull/7/head"), &first, "one"),
        (Some(first.as_str()), &first, "one"),
        (Some(heavy.as_str()), &first, "one"),
    ] {
        let source = GitSource { reference: reference.map(str::to_owned), ..repository.source() };
        let done = Checkout::of(&source);
        assert_eq!(done.files(), ["f"], "{reference:?}");
        assert_eq!(done.read("f"), text, "{reference:?}");
        assert_eq!(done.result.as_ref().unwrap(), &Commit { sha: commit.clone(), time: TIME }, "{reference:?}");
        if reference != Some(&heavy) {
            let scratch = tempfile::tempdir().unwrap();
            assert_eq!(&resolve(&source, scratch.path(), &GitOptions::default()).unwrap(), commit);
        }
    }
    for missing in ["nothing", "refs/heads/light", &first[..10], "0123456789012345678901234567890123456789"] {
        let error = Checkout::of(&repository.at(missing)).error();
        assert!(matches!(error, GitError::NotFound { .. } | GitError::Failed { .. }), "{missing}: {error}");
    }
}

#[test]
fn a_branch_comes_before_a_tag_of_its_name() {
    let repository = Repository::new();
    repository.write("f", "tag").commit();
    repository.git(&["tag", "same"]);
    repository.git(&["checkout", "-q", "-b", "same"]);
    repository.write("f", "branch").commit();
    assert_eq!(Checkout::of(&repository.at("same")).read("f"), "branch");
    assert_eq!(Checkout::of(&repository.at("refs/tags/same")).read("f"), "tag");
}

#[test]
fn checks_the_commit() {
    let repository = Repository::new();
    let commit = repository.write("f", "one").commit();
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    let tag = repository.git(&["rev-parse", "v1"]);
    for (checksum, right) in [
        (commit.as_str(), true),
        (&commit[..7], true),
        (&commit.to_uppercase()[..12], true),
        (&tag, true),
        ("0123456789", false),
    ] {
        let source = GitSource { checksum: Some(checksum.to_owned()), ..repository.at("v1") };
        let done = Checkout::of(&source);
        assert_eq!(done.result.is_ok(), right, "{checksum}");
        if !right {
            assert!(matches!(done.error(), GitError::Checksum { .. }));
        }
    }
}

#[test]
fn gives_modes_and_times_of_its_own() {
    let repository = Repository::new();
    repository.write("dir/plain", "x").write("dir/program", "x");
    let program = repository.folder.path().join("dir/program");
    fs::set_permissions(program, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("plain", repository.folder.path().join("dir/link")).unwrap();
    repository.commit();
    let done = Checkout::of(&repository.source());
    assert_eq!(done.files(), ["dir/link", "dir/plain", "dir/program"]);
    for (path, mode) in [("dir", 0o755), ("dir/plain", 0o644), ("dir/program", 0o755), ("dir/link", 0o777)] {
        let metadata = fs::symlink_metadata(done.parent.path().join("into").join(path)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (mode, TIME), "{path}");
    }
}

#[test]
fn gives_a_folder_of_the_repository() {
    let repository = Repository::new();
    repository.write("a/b/f", "x").write("top", "x");
    std::os::unix::fs::symlink("/", repository.folder.path().join("out")).unwrap();
    std::os::unix::fs::symlink("../a", repository.folder.path().join("a/again")).unwrap();
    repository.commit();
    let at = |subdir: &str| Checkout::of(&GitSource { subdir: subdir.to_owned(), ..repository.source() });
    assert_eq!(at("a/b").files(), ["f"]);
    for subdir in ["none", "top", "out", "out/etc", "a/again/b"] {
        assert!(matches!(at(subdir).error(), GitError::Subdir { .. }), "{subdir}");
    }
}

#[test]
fn keeps_the_git_folder_where_asked() {
    let repository = Repository::new();
    let commit = repository.write("f", "x").commit();
    repository.git(&["tag", "v1"]);
    let done = Checkout::of(&GitSource { keep_git_dir: Some(true), ..repository.at("v1") });
    let into = done.parent.path().join("into");
    assert_eq!(git(&into, &["rev-parse", "HEAD"]), commit);
    assert_eq!(git(&into, &["describe", "--tags", "--always"]), "v1");
    assert_eq!(git(&into, &["status", "--porcelain"]), "");
    assert!(!into.join(".git/FETCH_HEAD").exists() && !into.join(".git/hooks").exists());
}

#[test]
fn fetches_submodules() {
    let (inner, outer) = (Repository::new(), Repository::new());
    inner.write("deep", "x").commit();
    outer.write("top", "x");
    let url = format!("file://{}", inner.folder.path().display());
    outer.git(&["submodule", "--quiet", "add", &url, "sub"]);
    outer.commit();
    assert_eq!(Checkout::of(&outer.source()).files(), [".gitmodules", "sub/deep", "top"]);
    let without = GitSource { submodules: Some(false), ..outer.source() };
    assert_eq!(Checkout::of(&without).files(), [".gitmodules", "top"]);
}

#[test]
fn runs_nothing_that_a_repository_brings() {
    let repository = Repository::new();
    let canary = repository.folder.path().join("canary");
    repository.write(".gitattributes", "* filter=evil\n").write("f", "x");
    let script = format!("#!/bin/sh\ntouch {}\n", canary.display());
    repository.write(".githooks/post-checkout", &script);
    repository.commit();
    assert_eq!(Checkout::of(&repository.source()).files(), [".gitattributes", ".githooks/post-checkout", "f"]);
    assert!(!canary.exists());
}

#[test]
fn refuses_local_repositories_as_submodules() {
    let (inner, outer) = (Repository::new(), Repository::new());
    inner.write("secret", "x").commit();
    let url = format!("file://{}", inner.folder.path().display());
    outer.git(&["submodule", "--quiet", "add", &url, "sub"]);
    outer.commit();
    outer.git(&["update-server-info"]);
    let root = outer.folder.path().join(".git");
    // The "dumb" protocol needs nothing but files.
    let server =
        Server::start(move |request| match fs::read(root.join(request.path().trim_start_matches("/r.git/"))) {
            Ok(bytes) => Reply::new(200).body(bytes),
            Err(_) => Reply::new(404),
        });
    let source = GitSource::parse(&server.url("/r.git"), Place::Add).unwrap().unwrap();
    let error = Checkout::of(&source).error().to_string();
    assert!(error.contains("submodule") && error.contains("file"), "{error}");
}

#[test]
fn sends_the_authorization_to_the_server_alone() {
    let server = Server::start(|_| Reply::new(404));
    let options = |header: &str| GitOptions {
        authorization: Some(GitAuthorization::Header(Secret::new(header))),
        ..GitOptions::default()
    };
    let source = GitSource::parse(&server.url("/r.git"), Place::Add).unwrap().unwrap();
    let error = Checkout::with(&source, &options("Bearer s3\"cr\\et")).error().to_string();
    assert!(!error.contains("cr\\et"), "{error}");
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer s3\"cr\\et"));
    assert!(matches!(Checkout::with(&source, &options("a\nb: c")).error(), GitError::Authorization));

    let written = server.url("/r.git").replace("http://", "http://u:s3cret@");
    let source = GitSource::parse(&written, Place::Add).unwrap().unwrap();
    let error = Checkout::of(&source).error().to_string();
    assert!(!error.contains("s3cret"), "{error}");
    assert_eq!(server.requests().pop().unwrap().header("authorization"), Some("basic dTpzM2NyZXQ="));
}

/// Git runs its daemon as a child, in the same group.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn fetches_over_the_git_protocol() {
    let repository = Repository::new();
    repository.write("f", "one").commit();
    repository.write("f", "two");
    let second = repository.commit();
    fs::write(repository.folder.path().join(".git/git-daemon-export-ok"), "").unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let base = format!("--base-path={}", repository.folder.path().parent().unwrap().display());
    let port = format!("--port={}", address.port());
    let mut daemon = Daemon(
        Command::new("git")
            .args(["daemon", "--reuseaddr", "--listen=127.0.0.1", &port, &base])
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap(),
    );
    while std::net::TcpStream::connect(address).is_err() {
        if daemon.0.try_wait().unwrap().is_some() {
            println!("skipped: git has no daemon here");
            return;
        }
        std::thread::yield_now();
    }
    let name = repository.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    let fetched = ["", "#main", &format!("#{second}")].map(|fragment| {
        let text = format!("git://{address}/{name}/.git{fragment}");
        Checkout::of(&GitSource::parse(&text, Place::Add).unwrap().unwrap())
    });
    for done in fetched {
        assert_eq!(done.read("f"), "two");
        assert_eq!(done.result.unwrap().sha, second);
    }
}

#[test]
fn a_cancelled_fetch_stops() {
    let repository = Repository::new();
    repository.write("f", "x").commit();
    let options = GitOptions::default();
    options.cancelled.cancel();
    assert!(matches!(Checkout::with(&repository.source(), &options).error(), GitError::Cancelled));
}
