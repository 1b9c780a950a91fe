//! Fetches a commit of a git repository and lays it out as a folder.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::git_program::{Git, GitOptions};
use super::{GitSource, MtimeOf};

const LAYER_OUT_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its 40 (SHA-1) or 64 (SHA-256) hexadecimal digits.
    pub sha: String,
    /// When it was committed, in seconds since 1970.
    pub time: i64,
}

/// A git repository could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The git program could not be run.
    #[error("cannot run git")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// Git failed.
    #[error("git {verb} of `{remote}` failed: {message}")]
    Failed {
        /// The command of git.
        verb: String,
        /// The repository.
        remote: String,
        /// Git's own words, escaped and bounded.
        message: String,
    },
    /// Git took too long.
    #[error("git {verb} of `{remote}` did not end in time")]
    Timeout {
        /// The command of git.
        verb: String,
        /// The repository.
        remote: String,
    },
    /// No branch or tag has the name.
    #[error("`{remote}` has no branch, tag or commit `{reference}`")]
    NotFound {
        /// The repository.
        remote: String,
        /// The name.
        reference: String,
    },
    /// The commit is another than the checksum says.
    #[error("`{reference}` of `{remote}` is the commit {got} and not {wanted}")]
    Checksum {
        /// The repository.
        remote: String,
        /// The name.
        reference: String,
        /// The commit asked for.
        wanted: String,
        /// The commit that it is.
        got: String,
    },
    /// The branch or tag changed while it was fetched.
    #[error("`{reference}` of `{remote}` changed while it was fetched: {resolved} became {fetched}")]
    Moved {
        /// The repository.
        remote: String,
        /// The name.
        reference: String,
        /// What it was.
        resolved: String,
        /// What came.
        fetched: String,
    },
    /// The folder is not in the repository, or leads out of it.
    #[error("`{remote}` has no folder `{subdir}`: {reason}")]
    Subdir {
        /// The repository.
        remote: String,
        /// The folder.
        subdir: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Git's answer makes no sense.
    #[error("the answer of `{remote}` cannot be used")]
    Answer {
        /// The repository.
        remote: String,
    },
    /// An authorization that is no header.
    #[error("the authorization for git has a line break")]
    Authorization,
    /// A file could not be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Tells which commit a source stands for, without fetching it; a full commit stands for itself.
///
/// `scratch` is a folder for temporary files.
///
/// # Errors
///
/// When the server cannot be asked, has nothing of that name, or has another commit than the checksum says.
pub fn resolve(source: &GitSource, scratch: &Path, options: &GitOptions) -> Result<String, GitError> {
    let work = work_folder(scratch)?;
    let git = Git::new(source, options, work.path())?;
    resolve_with(&git, source, work.path()).map(|found| found.commit)
}

/// Fetches a source into the folder `into`, which is made where it is not there, and must be empty.
///
/// Only the one commit is fetched. Folders and programs have mode 0755 and other files 0644, whatever the umask. All
/// have the time of the commit, unless the source asks for that of the checkout. Without `.git`, those of submodules
/// are dropped too.
///
/// # Errors
///
/// As [`resolve`], and when the folder inside the repository is not there or leads out of it. What was written until
/// then stays for the caller to remove.
pub fn checkout(source: &GitSource, into: &Path, options: &GitOptions) -> Result<Commit, GitError> {
    fs::create_dir_all(into).map_err(|error| write_error(into, error))?;
    let scratch = into.parent().unwrap_or(into);
    let work = work_folder(scratch)?;
    let git = Git::new(source, options, work.path())?;
    let found = resolve_with(&git, source, work.path())?;
    let tree = work.path().join("tree");
    fs::create_dir(&tree).map_err(|error| write_error(&tree, error))?;
    let commit = fetch(&git, source, &found, &tree)?;
    if source.submodules.unwrap_or(options.submodules) && tree.join(".gitmodules").exists() {
        git.run(&tree, &["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
    }
    let keep = source.keep_git_dir.unwrap_or(options.keep_git_dir) && source.subdir.is_empty();
    if keep {
        tidy_git_folder(&tree.join(".git"));
    }
    let root = subfolder(source, &tree)?;
    let time = match source.mtime.unwrap_or(MtimeOf::Commit) {
        MtimeOf::Commit => Some(commit.time),
        MtimeOf::Checkout => None,
    };
    normalise(&root, keep, time)?;
    for entry in fs::read_dir(&root).map_err(|error| write_error(&root, error))? {
        let from = entry.map_err(|error| write_error(&root, error))?;
        let to = into.join(from.file_name());
        fs::rename(from.path(), &to).map_err(|error| write_error(&to, error))?;
    }
    Ok(commit)
}

/// What a name stands for at the server.
struct Found {
    /// The full name there, where it has one.
    name: Option<String>,
    /// The object: a commit, or an annotated tag.
    object: String,
    /// The commit.
    commit: String,
}

fn work_folder(scratch: &Path) -> Result<tempfile::TempDir, GitError> {
    // Only the owner may enter: it holds secrets, and a tree that strangers made.
    tempfile::Builder::new()
        .prefix(".git-checkout-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(scratch)
        .map_err(|error| write_error(scratch, error))
}

fn write_error(path: &Path, source: io::Error) -> GitError {
    GitError::Write { path: path.to_owned(), source }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn resolve_with(git: &Git<'_>, source: &GitSource, folder: &Path) -> Result<Found, GitError> {
    let wanted = source.reference.as_deref().unwrap_or("HEAD");
    if is_commit(wanted) {
        check(source, &[wanted], wanted)?;
        return Ok(Found { name: None, object: wanted.to_owned(), commit: wanted.to_owned() });
    }
    let short = wanted.strip_prefix("refs/").unwrap_or(wanted);
    let candidates = match source.reference {
        None => vec!["HEAD".to_owned()],
        // Git's checkout takes a branch before a tag of the same name.
        Some(_) => vec![format!("refs/{short}"), format!("refs/heads/{wanted}"), format!("refs/tags/{wanted}")],
    };
    let mut arguments = vec!["ls-remote".to_owned(), "--".to_owned(), source.remote.clone()];
    for name in &candidates {
        arguments.extend([name.clone(), format!("{name}^{{}}")]);
    }
    let answer = git.run(folder, &arguments)?;
    let answer = String::from_utf8_lossy(&answer);
    let find = |name: &str| {
        let line = answer.lines().find_map(|line| line.split_once('\t').filter(|(_, other)| *other == name));
        line.map(|(object, _)| object).filter(|object| is_commit(object))
    };
    let not_found = || GitError::NotFound { remote: source.remote.clone(), reference: wanted.to_owned() };
    let (name, object) = candidates.iter().find_map(|name| Some((name, find(name)?))).ok_or_else(not_found)?;
    let commit = find(&format!("{name}^{{}}")).unwrap_or(object);
    check(source, &[object, commit], wanted)?;
    Ok(Found { name: Some(name.clone()), object: object.to_owned(), commit: commit.to_owned() })
}

/// Compares with the checksum, which may be that of an annotated tag, and may be just its first digits.
fn check(source: &GitSource, objects: &[&str], reference: &str) -> Result<(), GitError> {
    let Some(checksum) = &source.checksum else { return Ok(()) };
    let wanted = checksum.to_ascii_lowercase();
    if objects.iter().any(|object| object.starts_with(&wanted)) {
        return Ok(());
    }
    let got = objects.last().map(|object| (*object).to_owned()).unwrap_or_default();
    Err(GitError::Checksum { remote: source.remote.clone(), reference: reference.to_owned(), wanted, got })
}

/// Fetches the commit into a new repository at `tree` and checks it out.
fn fetch(git: &Git<'_>, source: &GitSource, found: &Found, tree: &Path) -> Result<Commit, GitError> {
    let format = if found.commit.len() == 64 { "sha256" } else { "sha1" };
    git.run(tree, &["init", "--quiet", &format!("--object-format={format}")])?;
    git.run(tree, &["remote", "add", "--", "origin", &source.remote])?;
    let depth = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", "origin"];
    let fetch_one = |what: &str| git.run(tree, &[&depth[..], &[what]].concat());
    let by_name = found.name.as_ref().filter(|_| source.fetch_by_commit != Some(true));
    let fetched = match by_name {
        Some(name) if name.starts_with("refs/tags/") => fetch_one(&format!("+{name}:{name}")),
        Some(name) => fetch_one(name),
        None => fetch_one(&found.object),
    };
    if let Err(error) = fetched {
        // Servers that give no single commits, or nothing shallow, give everything.
        if matches!(error, GitError::Cancelled | GitError::Timeout { .. } | GitError::Start { .. }) {
            return Err(error);
        }
        let all = [
            "fetch",
            "--quiet",
            "--tags",
            "--no-recurse-submodules",
            "--",
            "origin",
            "+refs/heads/*:refs/remotes/origin/*",
        ];
        git.run(tree, &all).map_err(|_| error)?;
    }
    let head =
        if by_name.is_some() { "FETCH_HEAD^{commit}".to_owned() } else { format!("{}^{{commit}}", found.object) };
    let sha = text(source, git.run(tree, &["rev-parse", "--verify", "--quiet", "--end-of-options", &head]))?;
    if by_name.is_some() && sha != found.commit {
        return Err(GitError::Moved {
            remote: source.remote.clone(),
            reference: source.reference.clone().unwrap_or_else(|| "HEAD".to_owned()),
            resolved: found.commit.clone(),
            fetched: sha,
        });
    }
    let time = text(source, git.run(tree, &["show", "--no-patch", "--no-show-signature", "--format=%ct", &sha]))?;
    let time = time.lines().last().and_then(|line| line.parse().ok());
    let time = time.ok_or_else(|| GitError::Answer { remote: source.remote.clone() })?;
    git.run(tree, &["checkout", "--quiet", "--force", "--detach", &sha])?;
    Ok(Commit { sha, time })
}

/// One line that git wrote; a failure means that the object is not there.
fn text(source: &GitSource, output: Result<Vec<u8>, GitError>) -> Result<String, GitError> {
    match output {
        Ok(output) => Ok(String::from_utf8_lossy(&output).trim().to_owned()),
        Err(GitError::Failed { .. }) => Err(GitError::NotFound {
            remote: source.remote.clone(),
            reference: source.reference.clone().unwrap_or_else(|| "HEAD".to_owned()),
        }),
        Err(error) => Err(error),
    }
}

/// Finds the folder inside the repository. Each part must be a real folder: a link could lead anywhere.
fn subfolder(source: &GitSource, tree: &Path) -> Result<PathBuf, GitError> {
    let refuse = |reason| GitError::Subdir { remote: source.remote.clone(), subdir: source.subdir.clone(), reason };
    let mut folder = tree.to_owned();
    for part in source.subdir.split('/').filter(|part| !part.is_empty()) {
        folder.push(part);
        let metadata = fs::symlink_metadata(&folder).map_err(|_| refuse("it is not there"))?;
        if !metadata.is_dir() {
            return Err(refuse("a part of it is not a folder"));
        }
    }
    Ok(folder)
}

/// Drops what says when and from where the repository was fetched.
fn tidy_git_folder(git: &Path) {
    for name in ["FETCH_HEAD", "ORIG_HEAD", "logs", "hooks", "index.lock"] {
        let path = git.join(name);
        // What is not there need not be dropped.
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
}

/// Gives every file its mode and time, and drops each `.git` unless they stay.
fn normalise(root: &Path, keep_git: bool, time: Option<i64>) -> Result<(), GitError> {
    let is_git = |name: &OsStr| name == ".git";
    let mut walk = walkdir::WalkDir::new(root).follow_links(false).contents_first(false).into_iter();
    let mut folders = Vec::new();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            GitError::Write { path, source: error.into_io_error().unwrap_or_else(|| io::ErrorKind::InvalidData.into()) }
        })?;
        let (path, kind) = (entry.path(), entry.file_type());
        let failed = |error: io::Error| write_error(path, error);
        if is_git(entry.file_name()) && !keep_git && entry.depth() > 0 {
            if kind.is_dir() {
                fs::remove_dir_all(path).map_err(failed)?;
                walk.skip_current_dir();
            } else {
                fs::remove_file(path).map_err(failed)?;
            }
            continue;
        }
        if kind.is_dir() {
            fs::set_permissions(path, fs::Permissions::from_mode(LAYER_OUT_MODE)).map_err(failed)?;
            folders.push(path.to_owned());
            continue;
        }
        if kind.is_file() {
            let mode = entry.metadata().map_err(|error| failed(error.into()))?.permissions().mode();
            let wanted = if mode & 0o100 == 0 { FILE_MODE } else { LAYER_OUT_MODE };
            fs::set_permissions(path, fs::Permissions::from_mode(wanted)).map_err(failed)?;
        }
        set_time(path, time)?;
    }
    // Folders last, because what happens inside them changes their times.
    folders.iter().rev().try_for_each(|folder| set_time(folder, time))
}

fn set_time(path: &Path, time: Option<i64>) -> Result<(), GitError> {
    let Some(seconds) = time else { return Ok(()) };
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| write_error(path, error.into()))
}
