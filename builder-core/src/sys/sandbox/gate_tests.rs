use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::sys::network::PrivateNetwork;
use crate::sys::sandbox::{Exit, Process, RootMount, Running, SandboxSpec, SecurityMode, Stdio, spawn};

/// A root with busybox, and a network that nobody connects.
struct Setting {
    folder: tempfile::TempDir,
    network: PrivateNetwork,
}

impl Setting {
    /// `None` where the tests have no right to run steps, or steps no private network.
    fn new() -> Option<Self> {
        let tunnel = rustix::fs::access("/dev/net/tun", rustix::fs::Access::EXISTS);
        if !rustix::process::geteuid().is_root() || tunnel.is_err() {
            println!("skipped: steps with networks of their own need root and `/dev/net/tun`");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bin = folder.path().join("root/bin");
        std::fs::DirBuilder::new().recursive(true).create(&bin).expect("a root");
        std::io::copy(
            &mut File::open("/bin/busybox").expect("a static busybox"),
            &mut File::create(bin.join("busybox")).expect("a copy"),
        )
        .expect("a copy");
        let executable =
            |path| File::open(path).and_then(|file| file.set_permissions(PermissionsExt::from_mode(0o755)));
        executable(bin.join("busybox")).expect("its mode");
        for name in ["sh", "ip"] {
            symlink("busybox", bin.join(name)).expect("applets");
        }
        // It is looked for, and never started.
        File::create(folder.path().join("pasta")).expect("a program");
        executable(folder.path().join("pasta")).expect("its mode");
        let network = PrivateNetwork::prepare(folder.path().as_os_str()).expect("a network namespace");
        Some(Self { folder, network })
    }

    fn spec(&self, script: &str) -> SandboxSpec {
        let process = Process {
            arguments: ["sh", "-c", script].iter().map(Into::into).collect(),
            environment: vec!["PATH=/bin".into()],
            working_directory: "/".into(),
            ..Process::default()
        };
        let root = RootMount::Directory(self.folder.path().join("root"));
        SandboxSpec { network: self.network.mode(), ..SandboxSpec::new(root, process) }
    }

    /// Starts a shell; with the gate, and what it writes.
    fn start(&self, script: &str) -> (Running, Gate, File) {
        let (output, stdout) = std::io::pipe().expect("a pipe");
        let stdout = OwnedFd::from(stdout);
        let stderr = stdout.try_clone().expect("a copy");
        let mut running =
            spawn(self.spec(script), Stdio::Descriptors { stdin: None, stdout, stderr }).expect("it starts");
        let gate = running.take_gate().expect("the network is not connected");
        (running, gate, OwnedFd::from(output).into())
    }
}

/// The first thing seen at a gate other than nobody.
fn next(gate: &mut Gate) -> AtGate {
    loop {
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let count = poll(&mut [PollFd::new(&*gate, PollFlags::IN)], Some(&timeout)).expect("waiting works");
        assert!(count > 0, "nobody came to the gate");
        match gate.look() {
            AtGate::Nobody => {}
            seen => return seen,
        }
    }
}

fn rest(mut output: File) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).expect("text");
    text
}

const SCRIPT: &str = "echo before; ip link >/dev/null && echo after; ip link >/dev/null && echo again";

#[test]
fn a_step_waits_at_its_first_socket_and_not_before() {
    let Some(setting) = Setting::new() else { return };
    let (running, mut gate, mut output) = setting.start(SCRIPT);
    let mut text = [0; 7];
    output.read_exact(&mut text).expect("it runs up to there");
    assert_eq!(&text, b"before\n");
    assert_eq!(next(&mut gate), AtGate::Waiting { before_start: false });
    std::thread::scope(|scope| {
        scope.spawn(|| gate.open(running.pidfd()));
        assert_eq!(rest(output), "after\nagain\n");
        assert_eq!(running.wait().expect("it runs"), Exit::Code(0));
    });
}

#[test]
fn a_step_without_sockets_never_waits() {
    let Some(setting) = Setting::new() else { return };
    let (running, mut gate, output) = setting.start("echo done");
    assert_eq!(rest(output), "done\n");
    assert_eq!(next(&mut gate), AtGate::Closed);
    assert_eq!(running.wait().expect("it runs"), Exit::Code(0));
}

#[test]
fn where_a_listener_is_the_network_comes_before_the_command() {
    let Some(setting) = Setting::new() else { return };
    // A filter is its thread's, and the steps' that the thread starts.
    let allow = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let _listener = seccomp::install_with_listener(&allow).expect("a filter");
    let (running, mut gate, output) = setting.start(SCRIPT);
    assert_eq!(next(&mut gate), AtGate::Waiting { before_start: true });
    let written = poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    assert_eq!(written, Ok(0), "the command has not begun");
    gate.open(running.pidfd());
    assert_eq!(rest(output), "before\nafter\nagain\n");
    assert_eq!(running.wait().expect("it runs"), Exit::Code(0));
}

#[test]
fn a_step_that_is_killed_at_the_gate_is_gone() {
    let Some(setting) = Setting::new() else { return };
    let (running, mut gate, output) = setting.start(SCRIPT);
    assert_eq!(next(&mut gate), AtGate::Waiting { before_start: false });
    running.kill();
    assert_eq!(running.wait().expect("it is waited for"), Exit::Signal(9));
    gate.open(running.pidfd());
    assert_eq!(rest(output), "before\n");
}

#[test]
fn a_step_with_no_filter_has_no_gate() {
    let Some(setting) = Setting::new() else { return };
    let spec = SandboxSpec { security: SecurityMode::Insecure, ..setting.spec("") };
    let stdio = || OwnedFd::from(File::open("/dev/null").expect("a device"));
    let started = spawn(spec, Stdio::Descriptors { stdin: None, stdout: stdio(), stderr: stdio() });
    assert!(matches!(started, Err(SandboxError::NeedsFilter)));
}
