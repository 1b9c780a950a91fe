//! What the tests of the whole command share: a base image, contexts, and running rbuild and other programs.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rbuild_core::oci::Digest;
use tempfile::TempDir;

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn from(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the program ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the program ended with that status, and its messages hold all of `texts`.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.says(texts)
    }

    /// Fails the test unless the program's messages hold all of `texts`.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

/// A folder with a store, a base image made from Debian's busybox-static, and room for contexts.
pub struct Bench {
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("rbuild-test-").tempdir_in("/var/tmp").expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        busybox_layout(&folder.path().join("busybox"));
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a context of `(path, text)` pairs.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(&root).expect("context");
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        root
    }

    /// The command `rbuild --root STORE`.
    pub fn rbuild(&self) -> Command {
        let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
        command.arg("--root").arg(self.path("store"));
        command
    }

    /// `rbuild build` with the base image at hand.
    pub fn build(&self, context: &Path, flags: &[&str]) -> Ran {
        self.build_command(context, flags).ran()
    }

    pub fn build_command(&self, context: &Path, flags: &[&str]) -> Command {
        let mut command = self.rbuild();
        command.args(["build", "--progress=plain", "--build-context"]);
        command.arg(format!("busybox=oci-layout://{}", self.path("busybox").display()));
        command.args(flags).arg(context);
        command
    }
}

/// An ordinary user of the machine with subordinate ids, and a home.
pub struct User {
    pub name: String,
    program: PathBuf,
    home: PathBuf,
}

impl Bench {
    /// Makes an ordinary user unless it is there, and puts rbuild where that user finds it.
    pub fn user(&self) -> User {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/environment.sh");
        let made = Command::new("bash").args(["-c", &format!("source {script} && test_user && echo $test_user")]).ran();
        let name = made.ok().stdout.trim().to_owned();
        let program = self.path("rbuild");
        fs::copy(env!("CARGO_BIN_EXE_rbuild"), &program).expect("copy of rbuild");
        let home = self.path("user");
        fs::create_dir_all(&home).expect("home");
        Command::new("chown").arg(format!("{name}:")).arg(&home).ran().ok();
        User { name, program, home }
    }
}

impl User {
    /// A path in the user's home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A command that runs as the user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = clean_command("setpriv");
        command.args(["--reuid", &self.name, "--regid", &self.name, "--init-groups", "--", program]);
        command.env("HOME", &self.home).env("USER", &self.name).current_dir(&self.home);
        for name in ["XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command
    }

    /// `rbuild` as the user, with a store in its home.
    pub fn rbuild(&self) -> Command {
        let mut command = self.command(&self.program.display().to_string());
        command.arg("--root").arg(self.path("store"));
        command
    }

    /// `rbuild build` as the user with the base image of the bench.
    pub fn build_command(&self, bench: &Bench, context: &Path, flags: &[&str]) -> Command {
        let mut command = self.rbuild();
        command.args(["build", "--progress=plain", "--build-context"]);
        command.arg(format!("busybox=oci-layout://{}", bench.path("busybox").display()));
        command.args(flags).arg(context);
        command
    }
}

/// The digest that `--iidfile` was given.
pub fn digest_in(file: &Path) -> String {
    fs::read_to_string(file).expect("a digest").trim().to_owned()
}

/// Whether any process has `text` in its command line.
pub fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|id| id != std::process::id()))
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// The temporary folders of a store whose locks somebody holds.
pub fn held_folders(store: &Path) -> Vec<String> {
    let folders = fs::read_dir(store.join("tmp")).into_iter().flatten().filter_map(Result::ok);
    let held = |path: &Path| fs::File::open(path.join("lock")).is_ok_and(|file| file.try_lock().is_err());
    folders.map(|folder| folder.path()).filter(|path| held(path)).map(|path| path.display().to_string()).collect()
}

/// Writes what `child` reads from its standard input, and waits for its end.
pub fn ran_with_input(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let ran = Ran::from(&child.wait_with_output().expect("it ends"));
    // A program that reads nothing closes the pipe.
    let _ = writer.join();
    ran
}

/// A command that sees nothing of the caller's settings.
pub fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        if name.starts_with("RBUILD")
            || name.starts_with("BUILDKIT")
            || name.starts_with("DOCKER")
            || name == "SOURCE_DATE_EPOCH"
            || name == "XDG_RUNTIME_DIR"
        {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub trait RunCommand {
    fn ran(&mut self) -> Ran;
}

impl RunCommand for Command {
    fn ran(&mut self) -> Ran {
        Ran::from(&self.output().unwrap_or_else(|error| panic!("{self:?}: {error}")))
    }
}

/// Whether all programs are there; says which test is skipped where not.
pub fn have(test: &str, programs: &[&str]) -> bool {
    let there = |program: &&str| {
        ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().any(|d| Path::new(d).join(program).exists())
    };
    let missing: Vec<_> = programs.iter().filter(|p| !there(p)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {test} needs the programs {missing:?}");
    }
    missing.is_empty()
}

/// Whether the tests run as root; says which test is skipped where not.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}

/// Makes an OCI layout of a small image from Debian's busybox-static, tagged `latest`.
pub fn busybox_layout(layout: &Path) {
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].iter().find(|p| Path::new(p).exists()).expect("install busybox-static");
    let applets = Command::new(busybox).arg("--list").output().expect("busybox --list").stdout;
    let root = layout.with_extension("root");
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(root.join(folder)).expect("folder");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("mode");
    fs::copy(busybox, root.join("bin/busybox")).expect("copy");
    for applet in String::from_utf8_lossy(&applets).lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home:/bin/sh\n")
        .expect("write");
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\n").expect("write");
    let tar = Command::new("tar")
        .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf", "-", "-C"])
        .arg(&root)
        .arg(".")
        .output()
        .expect("tar")
        .stdout;
    fs::remove_dir_all(&root).expect("remove");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("folder");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("blob");
        (digest, bytes.len())
    };
    let (layer, layer_size) = put(&tar);
    let (config, config_size) = put(
        format!(r#"{{"architecture":"amd64","config":{{"Cmd":["/bin/sh"],"Env":["PATH=/bin:/usr/bin"]}},"os":"linux","rootfs":{{"diff_ids":["{layer}"],"type":"layers"}}}}"#)
            .as_bytes(),
    );
    let (manifest, manifest_size) = put(
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
        )
        .as_bytes(),
    );
    fs::write(
        layout.join("index.json"),
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{manifest}","size":{manifest_size},"annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#
        ),
    )
    .expect("index");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
}

/// Debian's docker-registry on a free loopback port, stopped when dropped.
pub struct Registry {
    process: std::process::Child,
    pub host: String,
}

impl Registry {
    pub fn start(folder: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        fs::create_dir_all(folder).expect("folder");
        let config = folder.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                folder.join("data").display()
            ),
        )
        .expect("config");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        wait_for("the registry", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { process, host: format!("localhost:{port}") }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until something is so, at most 30 seconds.
pub fn wait_for(what: &str, ready: impl Fn() -> bool) {
    for _ in 0..300 {
        if ready() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{what} did not come up");
}
