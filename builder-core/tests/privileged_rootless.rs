//! Steps of a user who is not root, and of an rbuild that is killed.
//!
//! These enter user namespaces and lose whole processes, so each case runs in a process of its own without threads:
//! this program starts itself with the case as its argument.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as Pipe};
use std::time::{Duration, Instant};

use rbuild_core::sys::mount::{Overlay, WritableLayer};
use rbuild_core::sys::network::PrivateNetwork;
use rbuild_core::sys::sandbox::{Exit, Isolation, NetworkMode, Process, RootMount, SandboxSpec, Stdio, spawn};
use rbuild_core::sys::userns::{Entered, ProbeOptions, enter, probe};

/// A user of this test only, with a range of its own.
const USER: &str = "rbuild-test";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Case = fn(&Path) -> Result<(), Box<dyn Error>>;

const CASES: [(&str, Case); 5] = [
    ("rootless_steps", rootless),
    ("killed_rbuild_leaves_no_process", killed_namespaces),
    ("killed_rbuild_leaves_no_process_in_a_chroot", killed_chroot),
    ("chroot_steps_of_a_container", container),
    ("a_trivial_step_is_quick", quick),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role =
        |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).map(PathBuf::from);
    if let Some(folder) = role("--as-user") {
        return finish("as a user", as_user(&folder));
    }
    if let Some(folder) = role("--run-until-killed") {
        return finish("until killed", until_killed(&folder, arguments.iter().any(|a| a == "--chroot")));
    }
    if let Some(folder) = role("--as-container") {
        return finish("as a container's root", as_container(&folder));
    }
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|f| if exact { *f == name } else { name.contains(f.as_str()) })
    };
    let mut failed = false;
    for (name, case) in CASES.into_iter().filter(|(name, _)| wanted(name)) {
        let folder = tempfile::Builder::new().prefix("rbuild-").tempdir_in("/var/tmp").expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a readable folder");
        failed |= finish(name, case(folder.path())) != ExitCode::SUCCESS;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn finish(name: &str, result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => {
            println!("test {name} ... ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("test {name} ... FAILED\n{}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

fn ensure(condition: bool, what: impl std::fmt::Display) -> Result<(), Box<dyn Error>> {
    if condition { Ok(()) } else { Err(what.to_string().into()) }
}

fn process(arguments: &[&str]) -> Process {
    Process {
        arguments: arguments.iter().map(Into::into).collect(),
        environment: vec!["PATH=/bin".into()],
        working_directory: "/".into(),
        ..Process::default()
    }
}

/// A root with busybox, and the folders of an overlay.
fn make_root(folder: &Path) -> Result<Overlay, Box<dyn Error>> {
    let lower = folder.join("lower");
    fs::create_dir_all(lower.join("bin"))?;
    fs::copy("/bin/busybox", lower.join("bin/busybox"))?;
    for name in ["sh", "sleep", "true"] {
        symlink("busybox", lower.join("bin").join(name))?;
    }
    let writable = WritableLayer { upper: folder.join("upper"), work: folder.join("work") };
    fs::create_dir(&writable.upper)?;
    fs::create_dir(&writable.work)?;
    Ok(Overlay { lower: vec![lower], writable: Some(writable) })
}

fn run(spec: SandboxSpec) -> Result<(Exit, String), Box<dyn Error>> {
    let (mut output, stdout) = std::io::pipe()?;
    let stdout = OwnedFd::from(stdout);
    let stderr = stdout.try_clone()?;
    let running = spawn(spec, Stdio::Descriptors { stdin: None, stdout, stderr })?;
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    Ok((running.wait()?, text))
}

fn rootless(folder: &Path) -> Result<(), Box<dyn Error>> {
    if rustix::process::geteuid().as_raw() != 0 {
        println!("skipped: only root can make a user");
        return Ok(());
    }
    if !fs::read_to_string("/etc/passwd")?.contains(&format!("\n{USER}:")) {
        let made = Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", USER]).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: `useradd` cannot make a user");
            return Ok(());
        }
    }
    let ids: Vec<u32> = fs::read_to_string("/etc/passwd")?
        .lines()
        .find(|line| line.starts_with(&format!("{USER}:")))
        .map(|line| line.split(':').skip(2).take(2).filter_map(|id| id.parse().ok()).collect())
        .unwrap_or_default();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        if !text.lines().any(|line| line.starts_with(&format!("{USER}:"))) {
            fs::write(file, format!("{text}{USER}:700000:65536\n"))?;
        }
    }
    // The user may not be able to reach the build folder.
    let program = folder.join("test");
    fs::copy(std::env::current_exe()?, &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let own = folder.join("own");
    fs::create_dir(&own)?;
    std::os::unix::fs::chown(&own, Some(ids[0]), Some(ids[1]))?;
    let output = Command::new(&program)
        .arg("--as-user")
        .arg(&own)
        .uid(ids[0])
        .gid(ids[1])
        .env_clear()
        .env("CANARY", "1")
        .current_dir("/")
        .output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure(output.status.success(), &text)?;
    print!("{text}");
    Ok(())
}

/// What the user does: all that root does, in a user namespace.
fn as_user(folder: &Path) -> Result<(), Box<dyn Error>> {
    let entered = enter(SEARCH_PATH.as_ref())?;
    ensure(matches!(entered, Entered::UserNamespace { user_ids: 65_537, group_ids: 65_537 }), format!("{entered:?}"))?;
    let probe = probe(ProbeOptions { search_path: SEARCH_PATH.as_ref(), directory: folder });
    ensure(probe.namespaces(), format!("{probe:#?}"))?;

    let root = make_root(folder)?;
    let upper = folder.join("upper");
    let script = "id -u; touch /a /b; chown 5:6 /a; chown 1000:1000 /b; chmod 4755 /b; rm /bin/true; cat /proc/1/environ; \
                  grep CapEff /proc/self/status; echo x >/dev/null; head -c1 /dev/zero | wc -c; ls /sys/class/net; \
                  touch /sys/fs/cgroup/x /sys/x; ls /sys/firmware | wc -l; mount | grep -c overlay; ls -d /dev/pts";
    let (exit, text) = run(SandboxSpec::new(RootMount::Overlay(root.clone()), process(&["sh", "-c", script])))?;
    let want = "0\ncat: can't open '/proc/1/environ': Permission denied\nCapEff:\t00000000a80425fb\n1\nlo\n\
                touch: /sys/fs/cgroup/x: Read-only file system\ntouch: /sys/x: Read-only file system\n0\n1\n/dev/pts\n";
    ensure((exit, text.as_str()) == (Exit::Code(0), want), format!("{exit:?}\n{text}"))?;
    let owner = rustix::fs::stat(upper.join("a"))?;
    ensure((owner.st_uid, owner.st_gid) == (5, 6), "ids are mapped")?;
    let gone = rustix::fs::lstat(upper.join("bin/true"))?;
    ensure(gone.st_mode & libc_file_type() == 0o020_000 && gone.st_rdev == 0, "a whiteout")?;

    let fresh = |spec: &mut SandboxSpec, name: &str| -> Result<(), Box<dyn Error>> {
        let mut layers = root.clone();
        let work = folder.join(name);
        fs::create_dir(&work)?;
        layers.writable = Some(WritableLayer { upper: upper.clone(), work });
        spec.root = RootMount::Overlay(layers);
        Ok(())
    };
    let mut spec =
        SandboxSpec::new(RootMount::Directory("/".into()), process(&["sh", "-c", "id; ls /sys >/dev/stdout | wc -l"]));
    (spec.process.uid, spec.process.gid) = (1000, 1000);
    fresh(&mut spec, "work-user")?;
    let (_, text) = run(spec)?;
    ensure(text.starts_with("uid=1000 gid=1000"), &text)?;

    let mut spec = SandboxSpec::new(
        RootMount::Directory("/".into()),
        process(&["sh", "-c", "ls -d /sys/kernel /proc/sys; touch /sys/x"]),
    );
    spec.network = NetworkMode::Host;
    fresh(&mut spec, "work-host")?;
    let (_, text) = run(spec)?;
    ensure(text == "/proc/sys\n/sys/kernel\ntouch: /sys/x: Read-only file system\n", &text)?;

    match PrivateNetwork::start(SEARCH_PATH.as_ref()) {
        Err(error) => println!("skipped: no private network: {}", chain(&error)),
        Ok(network) => {
            let mut spec = SandboxSpec::new(
                RootMount::Directory("/".into()),
                process(&["sh", "-c", "ip route | grep -c ^default"]),
            );
            spec.network = network.mode();
            fresh(&mut spec, "work-private")?;
            let (_, text) = run(spec)?;
            ensure(text == "1\n", &text)?;
        }
    }
    Ok(())
}

/// Docker's default capabilities, as setpriv names them.
const CONTAINER: &str = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,\
                         +net_bind_service,+sys_chroot,+kill,+audit_write";

fn container(folder: &Path) -> Result<(), Box<dyn Error>> {
    let output = Command::new("setpriv")
        .arg(format!("--bounding-set={CONTAINER}"))
        .arg(std::env::current_exe()?)
        .arg("--as-container")
        .arg(folder)
        .output();
    let Ok(output) = output else {
        println!("skipped: `setpriv` is not installed");
        return Ok(());
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure(output.status.success(), &text)
}

/// What root of a default container does: no namespaces, a chroot.
fn as_container(folder: &Path) -> Result<(), Box<dyn Error>> {
    let entered = enter(SEARCH_PATH.as_ref())?;
    ensure(entered == Entered::Root { own_mounts: false }, format!("{entered:?}"))?;
    make_root(folder)?;
    let mut spec =
        SandboxSpec::new(RootMount::Directory(folder.join("lower")), process(&["sh", "-c", "echo $0; exit 5", "x"]));
    let refused = spawn(spec_of(&folder.join("lower")), null_streams()?);
    ensure(refused.is_err(), "namespaces without the privilege")?;
    spec.isolation = Isolation::Chroot;
    spec.network = NetworkMode::Host;
    (spec.process.uid, spec.process.gid) = (7, 8);
    let (exit, text) = run(spec)?;
    ensure((exit, text.as_str()) == (Exit::Code(5), "x\n"), format!("{exit:?} {text}"))
}

fn spec_of(root: &Path) -> SandboxSpec {
    SandboxSpec::new(RootMount::Directory(root.into()), process(&["true"]))
}

fn null_streams() -> Result<Stdio, Box<dyn Error>> {
    let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    Ok(Stdio::Descriptors { stdin: None, stdout: null()?, stderr: null()? })
}

fn libc_file_type() -> u32 {
    0o170_000
}

/// Runs a step with several processes, some of them in sessions of their own, and waits for ever.
fn until_killed(folder: &Path, chroot: bool) -> Result<(), Box<dyn Error>> {
    let marker = fs::read_to_string(folder.join("marker"))?;
    let script = format!("echo up; sh -c 'sleep {marker}; :' & sleep {marker} & sleep {marker}");
    let mut spec = SandboxSpec::new(RootMount::Overlay(make_root(folder)?), process(&["sh", "-c", &script]));
    if chroot {
        fs::create_dir(folder.join("lower/dev"))?;
        fs::write(folder.join("lower/dev/null"), "")?;
        spec.root = RootMount::Directory(folder.join("lower"));
        spec.isolation = Isolation::Chroot;
        spec.network = NetworkMode::Host;
    }
    let (exit, _) = {
        let stdout = rustix::io::dup(rustix::stdio::stdout())?;
        let stderr = rustix::io::dup(rustix::stdio::stderr())?;
        let running = spawn(spec, Stdio::Descriptors { stdin: None, stdout, stderr })?;
        (running.wait()?, running)
    };
    Err(format!("the step ended: {exit:?}").into())
}

fn killed_namespaces(folder: &Path) -> Result<(), Box<dyn Error>> {
    killed(folder, &[])
}

fn killed_chroot(folder: &Path) -> Result<(), Box<dyn Error>> {
    killed(folder, &["--chroot"])
}

fn killed(folder: &Path, more: &[&str]) -> Result<(), Box<dyn Error>> {
    // Unique on this machine, and a number of seconds.
    let marker = format!("6{:07}{}", std::process::id(), more.len());
    fs::write(folder.join("marker"), &marker)?;
    let mut rbuild = Command::new(std::env::current_exe()?)
        .arg("--run-until-killed")
        .arg(folder)
        .args(more)
        .stdout(Pipe::piped())
        .spawn()?;
    let mut lines = BufReader::new(rbuild.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    ensure(line == "up\n", format!("the step says `{line}`"))?;
    let started = Instant::now();
    while alive(&marker) < 3 {
        ensure(started.elapsed() < Duration::from_secs(10), "the step's processes did not start")?;
        std::thread::yield_now();
    }
    rbuild.kill()?;
    rbuild.wait()?;
    let killed = Instant::now();
    // The pipe ends when the last process of the step is gone.
    lines.read_to_string(&mut line)?;
    ensure(killed.elapsed() < Duration::from_secs(1), format!("it took {:?}", killed.elapsed()))?;
    ensure(alive(&marker) == 0, "a process outlived rbuild")
}

/// How many processes have this argument.
fn alive(argument: &str) -> usize {
    let has = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|&b| b == 0).any(|a| a == argument.as_bytes()))
    };
    fs::read_dir("/proc").map_or(0, |entries| entries.flatten().filter(has).count())
}

/// Says what a step costs; the bound is wide because machines that test are busy.
fn quick(folder: &Path) -> Result<(), Box<dyn Error>> {
    const STEPS: u32 = 50;
    let layers = make_root(folder)?;
    let mut works = Vec::new();
    for i in 0..STEPS {
        let work = folder.join(format!("work-{i}"));
        fs::create_dir(&work)?;
        works.push(work);
    }
    let began = Instant::now();
    for _ in 0..STEPS {
        let status = Command::new("/bin/busybox").args(["sh", "-c", "true"]).status()?;
        ensure(status.success(), status)?;
    }
    let bare = began.elapsed() / STEPS;
    let began = Instant::now();
    for work in works {
        let mut layers = layers.clone();
        layers.writable = Some(WritableLayer { upper: folder.join("upper"), work });
        let (exit, text) = run(SandboxSpec::new(RootMount::Overlay(layers), process(&["sh", "-c", "true"])))?;
        ensure(exit.success(), text)?;
    }
    let step = began.elapsed() / STEPS;
    println!("`sh -c true`: {bare:?} bare, {step:?} as a step");
    ensure(step < Duration::from_millis(250), format!("a step takes {step:?}"))
}
