//! Runs real steps. Needs root (or a user namespace) and a static busybox at `/bin/busybox`.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rbuild_core::sys::mount::{self, Overlay, Restrictions, WritableLayer};
use rbuild_core::sys::network::PrivateNetwork;
use rbuild_core::sys::sandbox::{
    Exit, Isolation, Mount, MountSource, NetworkMode, Process, Resource, ResourceLimit, RootMount, Running,
    SandboxError, SandboxSpec, SecurityMode, Stdio, TmpfsFile, spawn,
};
use rbuild_core::tree::TreePath;

/// A root with busybox in a read-only layer and an empty upper directory.
struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lower = folder.path().join("lower");
        for name in ["bin", "etc", "tmp", "work", "mnt"] {
            fs::create_dir_all(lower.join(name)).expect("folders of the root");
        }
        fs::create_dir(folder.path().join("upper")).expect("the upper folder");
        fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("a static busybox");
        // Without /proc, the shell finds its own commands only in the PATH.
        for name in ["sh", "true", "cat", "ls", "sleep", "touch", "setsid"] {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(name)).expect("applets");
        }
        fs::write(lower.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("users");
        Self { folder }
    }

    fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    fn upper(&self) -> PathBuf {
        self.folder.path().join("upper")
    }

    fn mount(&self) -> RootMount {
        // A volatile overlay cannot be mounted again with the same folder.
        let work = tempfile::tempdir_in(self.folder.path()).expect("a folder").keep();
        let writable = Some(WritableLayer { upper: self.upper(), work });
        RootMount::Overlay(Overlay { lower: vec![self.lower()], writable })
    }

    fn spec(&self, arguments: &[&str]) -> SandboxSpec {
        SandboxSpec::new(self.mount(), process(arguments))
    }
}

fn process(arguments: &[&str]) -> Process {
    Process {
        arguments: arguments.iter().map(Into::into).collect(),
        environment: vec!["PATH=/usr/bin:/bin".into()],
        working_directory: "/".into(),
        ..Process::default()
    }
}

fn start(spec: SandboxSpec) -> (Result<Running, SandboxError>, fs::File) {
    let (read, write) = std::io::pipe().expect("a pipe");
    let stdout = OwnedFd::from(write);
    let stderr = stdout.try_clone().expect("a copy");
    (spawn(spec, Stdio::Descriptors { stdin: None, stdout, stderr }), fs::File::from(OwnedFd::from(read)))
}

fn run(spec: SandboxSpec) -> (Result<Exit, SandboxError>, String) {
    let (running, mut output) = start(spec);
    let mut text = String::new();
    let exit = running.and_then(|running| {
        output.read_to_string(&mut text).expect("text");
        running.wait()
    });
    (exit, text)
}

fn shell(root: &Root, script: &str) -> (Exit, String) {
    let (exit, text) = run(root.spec(&["sh", "-c", script]));
    (exit.unwrap_or_else(|error| panic!("{}: {text}", chain(&error))), text)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

fn mount(target: &str, source: MountSource, read_only: bool) -> Mount {
    Mount { target: TreePath::clean(target.as_bytes()), source, read_only }
}

#[test]
fn exit_status_output_and_changes() {
    let root = Root::new();
    assert_eq!(shell(&root, "echo hello; touch /made; exit 7"), (Exit::Code(7), "hello\n".into()));
    assert!(root.upper().join("made").exists());
    for name in ["dev", "proc", "sys"] {
        assert_eq!(fs::metadata(root.upper().join(name)).expect("made when missing").mode() & 0o7777, 0o755);
    }
    let (exit, _) = shell(&Root::new(), "kill -TERM $$");
    assert_eq!((exit, exit.code()), (Exit::Signal(15), 143));
}

#[test]
fn failures_are_named() {
    let root = Root::new();
    let table: [(&[&str], &str, Option<u8>); 5] = [
        (&["nothing", "-x"], "the program `nothing` was not found in PATH", Some(127)),
        (&["/nothing"], "the program `/nothing` was not found", Some(127)),
        (&["/etc/passwd"], "the program `/etc/passwd` cannot be executed: Permission denied (os error 13)", Some(126)),
        (&["/etc"], "the program `/etc` cannot be executed: Permission denied (os error 13)", Some(126)),
        (&[], "the command is empty", None),
    ];
    for (arguments, text, code) in table {
        let error = run(root.spec(arguments)).0.expect_err("it cannot run");
        assert_eq!((chain(&error).as_str(), error.exit_code()), (text, code));
    }
    let root = Root::new();
    fs::write(root.lower().join("bin/script"), "#!/missing/interpreter\n").expect("a script");
    fs::set_permissions(root.lower().join("bin/script"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let error = run(root.spec(&["script"])).0.expect_err("it cannot run");
    assert_eq!(error.exit_code(), Some(126), "{}", chain(&error));
    let mut spec = root.spec(&["true"]);
    spec.process.working_directory = "/not/there".into();
    let text = chain(&run(spec).0.expect_err("no such folder"));
    assert_eq!(text, "cannot enter the working directory `/not/there`: No such file or directory (os error 2)");
    let mut spec = root.spec(&["true"]);
    spec.mounts.push(mount("missing", MountSource::Tmpfs { size_bytes: None, mode: 0o755, files: vec![] }, false));
    let text = chain(&run(spec).0.expect_err("no mount point"));
    assert_eq!(text, "cannot find the mount point `/missing`: No such file or directory (os error 2)");
    for target in ["", "proc/x", "sys", "dev"] {
        let mut spec = root.spec(&["true"]);
        spec.mounts.push(mount(target, MountSource::Tmpfs { size_bytes: None, mode: 0o755, files: vec![] }, false));
        assert!(matches!(run(spec).0, Err(SandboxError::ReservedTarget { .. })), "{target}");
    }
}

#[test]
fn nothing_of_the_caller_comes_along() {
    let root = Root::new();
    // A descriptor that a careless caller leaks to every child, at a host folder.
    let folder = fs::File::open("/etc").expect("a folder");
    let leaked = rustix::io::fcntl_dupfd_cloexec(&folder, 50).expect("a descriptor");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("without close-on-exec");
    let script =
        "env; ls /proc/self/fd | wc -l; umask; cat /proc/1/environ /proc/1/cmdline; cat /proc/self/oom_score_adj";
    let mut spec = root.spec(&["sh", "-c", script]);
    spec.process.environment.extend(["A=b c".into(), "PWD=/".into(), "SHLVL=0".into()]);
    let (_, text) = run(spec);
    drop(leaked);
    let text = text.replace('\0', "");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let want = [
        "0",
        "0022",
        "4",
        "A=b c",
        "PATH=/usr/bin:/bin",
        "PWD=/",
        "SHLVL=1",
        "cat: can't open '/proc/1/environ': Permission denied",
    ];
    assert_eq!(lines, want, "three streams and the folder that `ls` reads");

    for working_directory in ["/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/fd/12", "/proc/self/fd/50"] {
        let mut spec = root.spec(&["ls"]);
        spec.process.working_directory = working_directory.into();
        assert!(matches!(run(spec).0, Err(SandboxError::WorkingDirectory { .. })), "{working_directory}");
    }
    let (_, text) = shell(&Root::new(), "cd /; cd ../../..; ls -d bin etc; readlink /proc/self/cwd; cat /proc/1/comm");
    assert!(text.starts_with("bin\netc\n/\n"), "{text}");
}

#[test]
fn devices_are_a_known_list_and_others_do_not_open() {
    let (_, text) = shell(
        &Root::new(),
        "cd /dev; find . | sort; for n in null zero full random urandom tty; do stat -c '%n %t:%T %F' $n; done; \
         for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x >null && head -c1 zero | wc -c; echo shared >shm/a; cat shm/a; \
         for f in /x /dev/x /dev/shm/x; do mknod $f b 254 0; cat $f; done; mknod /y c 1 3; cat /y",
    );
    let want = "\
.
./fd
./full
./mqueue
./null
./ptmx
./pts
./pts/ptmx
./random
./shm
./stderr
./stdin
./stdout
./tty
./urandom
./zero
null 1:3 character special file
zero 1:5 character special file
full 1:7 character special file
random 1:8 character special file
urandom 1:9 character special file
tty 5:0 character special file
/proc/self/fd
/proc/self/fd/0
/proc/self/fd/1
/proc/self/fd/2
pts/ptmx
1
shared
cat: can't open '/x': Permission denied
cat: can't open '/dev/x': Permission denied
cat: can't open '/dev/shm/x': Permission denied
cat: can't open '/y': Permission denied
";
    assert_eq!(text, want);
}

#[test]
fn capabilities_and_privilege() {
    let root = Root::new();
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status | tr -s '\\t ' ' '";
    let (_, text) = shell(&Root::new(), status);
    let want = "Uid: 0 0 0 0\nGid: 0 0 0 0\nGroups: \nCapInh: 0000000000000000\nCapPrm: 00000000a80425fb\n\
                CapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nNoNewPrivs: 0\nSeccomp: 2\n";
    assert_eq!(text, want);

    let mut spec = root.spec(&["sh", "-c", status]);
    (spec.process.uid, spec.process.gid, spec.process.groups) = (1000, 100, vec![100, 7]);
    let want = "Uid: 1000 1000 1000 1000\nGid: 100 100 100 100\nGroups: 7 100 \nCapInh: 0000000000000000\n\
                CapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapBnd: 00000000a80425fb\n\
                CapAmb: 0000000000000000\nNoNewPrivs: 0\nSeccomp: 2\n";
    assert_eq!(run(spec).1, want);

    // Set-user-id programs of the image work, those on a mount do not.
    let root = Root::new();
    fs::copy("/bin/busybox", root.lower().join("work/su")).expect("a copy");
    fs::set_permissions(root.lower().join("work/su"), fs::Permissions::from_mode(0o4755)).expect("its mode");
    fs::write(root.lower().join("etc/passwd"), "root::0:0::/:/bin/sh\n").expect("a user without password");
    let mut spec = root.spec(&["sh", "-c", "/work/su -c 'id -u'; /mnt/su -c 'id -u'; echo to >/dev/stdout"]);
    (spec.process.uid, spec.process.gid) = (1000, 1000);
    spec.mounts.push(mount("mnt", MountSource::Bind(root.lower().join("work")), true));
    assert_eq!(run(spec).1, "0\nsu: must be suid to work properly\nto\n");
}

#[test]
fn dangerous_calls_are_refused() {
    let script = "unshare -m true; mount -t tmpfs x /mnt; umount /proc; hostname x; chroot / true && echo chroot; \
                  mount -o remount,rw /sys; echo x >/proc/sys/kernel/hostname; grep -c '/proc/irq proc ro' /proc/mounts; \
                  touch /sys/x; touch /sys/fs/cgroup/x; \
                  cat /proc/interrupts | wc -c; ls /sys/firmware | wc -l; cat /proc/keys | wc -c; ls /proc/1/root";
    let (_, text) = shell(&Root::new(), script);
    let want = [
        "unshare: unshare(0x20000): Operation not permitted",
        "mount: permission denied (are you root?)",
        "umount: can't unmount /proc: Operation not permitted",
        "hostname: sethostname: Operation not permitted",
        "chroot",
        "mount: permission denied (are you root?)",
        "sh: can't create /proc/sys/kernel/hostname: Read-only file system",
        "1",
        "touch: /sys/x: Read-only file system",
        "touch: /sys/fs/cgroup/x: Read-only file system",
        "0",
        "0",
        "0",
        "ls: /proc/1/root: Permission denied",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), want);
}

#[test]
fn rbuild_itself_cannot_be_executed_from_inside() {
    let root = Root::new();
    for (name, text) in
        [("direct", "#!/proc/self/exe\n"), ("twice", "#!/bin/direct x\n"), ("plain", "#! /bin/sh\necho ran\n")]
    {
        fs::write(root.lower().join("bin").join(name), text).expect("a script");
        fs::set_permissions(root.lower().join("bin").join(name), fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    std::os::unix::fs::symlink("/proc/self/exe", root.lower().join("bin/link")).expect("a link");
    for program in ["/proc/self/exe", "/proc/1/exe", "link", "direct", "twice"] {
        let error = run(root.spec(&[program])).0.expect_err("refused");
        assert_eq!(error.exit_code(), Some(126), "{program}: {}", chain(&error));
    }
    assert_eq!(run(root.spec(&["plain"])).1, "ran\n");
}

#[test]
fn mounts_of_every_kind() {
    let root = Root::new();
    let host = root.folder.path().join("host");
    fs::create_dir_all(host.join("inner")).expect("a folder");
    fs::write(host.join("inner/file"), "from the host").expect("a file");
    std::os::unix::fs::symlink("/", host.join("out")).expect("a link");
    for name in ["a", "b", "c", "d"] {
        fs::create_dir(root.lower().join("mnt").join(name)).expect("a mount point");
    }
    fs::write(root.lower().join("mnt/file"), "").expect("a mount point");
    fs::write(root.lower().join("mnt/secret"), "").expect("a mount point");
    fs::create_dir_all(host.join("upper")).expect("a folder");
    fs::create_dir_all(host.join("work")).expect("a folder");
    let script = "cat /mnt/a/inner/file /mnt/file; echo; echo w >/mnt/a/new; touch /mnt/b/new; ls /mnt/b; \
                  cat /mnt/secret; stat -c ' %a %u:%g %s' /mnt/secret; stat -c '%a' /mnt/c; ls /mnt/c /mnt/d; \
                  echo changed >/mnt/d/hosted; mount -o remount,rw /mnt/a; cat /dev/mine; echo w >/mnt/c/f";
    let mut spec = root.spec(&["sh", "-c", script]);
    let beneath =
        |path: &str| MountSource::BindBeneath { directory: host.clone(), path: TreePath::clean(path.as_bytes()) };
    let stage = Overlay {
        lower: vec![host.clone()],
        writable: Some(WritableLayer { upper: host.join("upper"), work: host.join("work") }),
    };
    fs::write(host.join("inner/hosted"), "").expect("a file");
    let file = TmpfsFile { name: c"f".into(), mode: 0o640, uid: 5, gid: 6, bytes: b"x".to_vec() };
    spec.mounts = vec![
        mount("mnt/a", MountSource::Bind(host.clone()), true),
        mount("mnt/file", beneath("out/inner/file"), true),
        mount("mnt/b", beneath("inner"), false),
        mount("mnt/c", MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1777, files: vec![file] }, true),
        mount("mnt/secret", MountSource::SecretFile { bytes: b"secret".to_vec(), mode: 0o400, uid: 3, gid: 4 }, true),
        mount("mnt/d", MountSource::Overlay { overlay: stage, path: TreePath::clean(b"inner") }, false),
        mount("dev/mine", MountSource::SecretFile { bytes: b"mine\n".to_vec(), mode: 0o400, uid: 0, gid: 0 }, true),
    ];
    let (exit, text) = run(spec);
    exit.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let want = "from the hostfrom the host\nsh: can't create /mnt/a/new: Read-only file system\nfile\nhosted\nnew\nsecret 400 3:4 6\n1777\n\
                /mnt/c:\nf\n\n/mnt/d:\nfile\nhosted\nnew\nmount: permission denied (are you root?)\nmine\n\
                sh: can't create /mnt/c/f: Read-only file system\n";
    assert_eq!(text, want);
    assert_eq!(fs::read_to_string(host.join("inner/hosted")).expect("unchanged"), "");
    assert_eq!(fs::read_to_string(host.join("upper/inner/hosted")).expect("the copy"), "changed\n");
    assert_eq!(fs::read(root.lower().join("mnt/secret")).expect("unchanged"), b"");
    assert!(!root.upper().join("mnt").exists(), "mounts leave no trace");

    // A way out of the folder that is the root of the resolution.
    let mut spec = root.spec(&["true"]);
    spec.mounts = vec![mount("mnt/b", beneath("out/etc/passwd"), true)];
    assert!(matches!(run(spec).0, Err(SandboxError::Mount { .. })), "`out` leads to the folder itself");
}

/// Mounts whose source must be attached before it can be cloned must not keep the old root reachable.
#[test]
fn nothing_of_the_old_root_is_left() {
    let root = Root::new();
    for name in ["mnt/file", "mnt/secret"] {
        fs::write(root.lower().join(name), "").expect("a mount point");
    }
    let script = "for p in /.. /dev/.. /proc/..; do stat -c %d:%i $p; done | sort -u | wc -l; stat -c %d:%i / /..; \
                  awk '$5 == \"/\"' /proc/self/mountinfo | wc -l; grep -c ' - \\(ext4\\|xfs\\|btrfs\\|fuse\\) ' /proc/self/mountinfo";
    let mut spec = root.spec(&["sh", "-c", script]);
    let secret = |text: &str| MountSource::SecretFile { bytes: text.as_bytes().to_vec(), mode: 0o400, uid: 0, gid: 0 };
    spec.mounts = vec![
        mount("mnt/file", secret("one"), true),
        mount("mnt/secret", secret("two"), true),
        mount("dev/mine", secret("three"), true),
    ];
    let (exit, text) = run(spec);
    let _ = exit.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[1], lines[2], "/ and /.. are one: {text}");
    assert_eq!(lines[3], "1", "one mount at /: {text}");
    assert_eq!(lines[4], "0", "no disk of the host: {text}");
}

#[test]
fn mount_points_are_never_links() {
    for name in ["proc", "sys", "dev"] {
        let root = Root::new();
        std::os::unix::fs::symlink("/tmp", root.lower().join(name)).expect("a link");
        assert!(matches!(run(root.spec(&["true"])).0, Err(SandboxError::NotADirectory { .. })), "{name}");
    }
    let root = Root::new();
    std::os::unix::fs::symlink("/tmp", root.lower().join("link")).expect("a link");
    let mut spec = root.spec(&["true"]);
    spec.mounts = vec![mount("link", MountSource::Tmpfs { size_bytes: None, mode: 0o755, files: vec![] }, false)];
    assert!(matches!(run(spec).0, Err(SandboxError::Setup { .. })));
}

#[test]
fn a_detached_root_can_be_prepared_first() {
    let root = Root::new();
    let RootMount::Overlay(layers) = root.mount() else { unreachable!("this is what `mount` returns") };
    let mounted = mount::overlay(&layers, Restrictions::default()).expect("an overlay");
    rustix::fs::mkdirat(&mounted, "made-before", rustix::fs::Mode::RWXU).expect("a mount point");
    let mut spec = SandboxSpec::new(RootMount::Detached(mounted), process(&["touch", "/made-before/x", "/y"]));
    spec.mounts.push(mount("made-before", MountSource::Tmpfs { size_bytes: None, mode: 0o755, files: vec![] }, false));
    assert_eq!(run(spec).0.expect("it runs"), Exit::Code(0));
    assert!(root.upper().join("y").exists() && !root.upper().join("made-before/x").exists());
}

#[test]
fn hundreds_of_layers() {
    let root = Root::new();
    let mut lower: Vec<PathBuf> = (0..400).map(|i| root.folder.path().join(format!("layer-{i}"))).collect();
    for (i, layer) in lower.iter().enumerate() {
        fs::create_dir(layer).expect("a layer");
        fs::write(layer.join("top"), i.to_string()).expect("a file");
    }
    lower.push(root.lower());
    let RootMount::Overlay(mut layers) = root.mount() else { unreachable!("this is what `mount` returns") };
    layers.lower = lower;
    let (exit, text) = run(SandboxSpec::new(RootMount::Overlay(layers), process(&["cat", "/top"])));
    assert_eq!((exit.expect("it runs"), text.as_str()), (Exit::Code(0), "0"));
}

#[test]
fn networks() {
    let root = Root::new();
    let links =
        "ls /sys/class/net; ip addr show lo | grep -c 127.0.0.1; ping -c1 -W1 127.0.0.1 | grep -c ' 0% packet loss'";
    let (_, text) = shell(&Root::new(), links);
    assert_eq!(text, "lo\n1\n1\n");

    let mut spec = root.spec(&["sh", "-c", "cat /proc/net/dev | wc -l"]);
    spec.network = NetworkMode::Host;
    let host = fs::read_to_string("/proc/net/dev").expect("this host's").lines().count();
    assert_eq!(run(spec).1.trim(), host.to_string());

    let path = std::env::var_os("PATH").expect("a PATH");
    let network = match PrivateNetwork::start(&path) {
        Ok(network) => network,
        Err(error) => {
            println!("skipped: no private network: {}", chain(&error));
            return;
        }
    };
    // A service of the host on loopback and on every address is out of reach.
    let service = std::net::TcpListener::bind("0.0.0.0:0").expect("a service of the host");
    let port = service.local_addr().expect("its address").port();
    let script = format!(
        "ip route | grep -c ^default; g=$(ip route | grep ^default | cut -d' ' -f3); \
         own=$(ip -4 addr show scope global | grep inet | head -1 | tr -s ' ' | cut -d' ' -f3 | cut -d/ -f1); \
         for a in 127.0.0.1 $own $g; do nc -w1 $a {port} </dev/null && echo reached $a; done; ls /sys/class/net | wc -l"
    );
    let mut spec = root.spec(&["sh", "-c", &script]);
    spec.network = network.mode();
    let (exit, text) = run(spec);
    exit.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(text.starts_with("1\n") && text.ends_with("2\n") && !text.contains("reached"), "{text}");
}

#[test]
fn everything_ends_with_the_command() {
    let root = Root::new();
    let marker = format!("4{:07}", std::process::id());
    let script = format!("(trap '' TERM HUP INT; setsid sleep {marker} &) ; sleep {marker} & exit 3");
    assert_eq!(shell(&root, &script).0, Exit::Code(3));
    assert!(!alive(&marker), "a background process outlived the step");

    let (running, mut output) = start(root.spec(&["sh", "-c", &format!("echo up; sleep {marker} & sleep {marker}")]));
    let running = running.expect("it starts");
    output.read_exact(&mut [0; 3]).expect("it is up");
    running.kill();
    assert_eq!(running.wait().expect("killed"), Exit::Signal(9));
    assert!(!alive(&marker));

    let (running, mut output) = start(root.spec(&["sh", "-c", &format!("echo up; sleep {marker} & sleep {marker}")]));
    output.read_exact(&mut [0; 3]).expect("it is up");
    drop(running);
    assert!(!alive(&marker), "dropping leaves nothing");

    // Only its own processes are in reach.
    assert_eq!(shell(&root, "kill -9 -1; sleep 0; ps | wc -l; kill -9 1; kill -STOP 1; exit 5").0, Exit::Code(5));
}

/// Whether a process with this argument exists.
fn alive(argument: &str) -> bool {
    fs::read_dir("/proc").expect("procfs").flatten().any(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|&b| b == 0).any(|a| a == argument.as_bytes()))
    })
}

#[test]
fn limits_and_names() {
    let root = Root::new();
    let (_, text) = shell(
        &Root::new(),
        "ulimit -c; ulimit -n; hostname; cat /proc/sys/kernel/domainname; echo $$; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2",
    );
    assert_eq!(text, "0\n1024\nbuildkitsandbox\n(none)\n2\n65536\n");
    let mut spec = root.spec(&["sh", "-c", "ulimit -n; ulimit -f; hostname; touch /x"]);
    spec.limits = vec![
        ResourceLimit { resource: Resource::Nofile, soft: Some(77), hard: Some(88) },
        ResourceLimit { resource: Resource::Fsize, soft: Some(512 * 9), hard: Some(512 * 9) },
    ];
    spec.hostname = "other".into();
    spec.read_only_root = true;
    let (exit, text) = run(spec);
    assert_eq!(
        (exit.expect("it runs"), text.as_str()),
        (Exit::Code(1), "77\n9\nother\ntouch: /x: Read-only file system\n")
    );
}

#[test]
fn insecure_steps_may_do_everything() {
    let root = Root::new();
    let mut spec = root.spec(&[
        "sh", "-c", "mount -t tmpfs x /mnt && hostname x && echo ok; grep -c Seccomp:.0 /proc/self/status; grep -c '/sys sysfs rw' /proc/mounts",
    ]);
    spec.security = SecurityMode::Insecure;
    let (exit, text) = run(spec);
    assert_eq!((exit.expect("it runs"), text.as_str()), (Exit::Code(0), "ok\n1\n1\n"));
}

#[test]
fn terminals() {
    let root = Root::new();
    let mut running = spawn(
        root.spec(&["sh", "-c", "tty; stty size; read line; echo got $line"]),
        Stdio::Terminal { rows: 7, columns: 33 },
    )
    .expect("it starts");
    let mut terminal = fs::File::from(running.take_terminal().expect("its terminal"));
    terminal.write_all(b"typed\n").expect("a line");
    let mut text = Vec::new();
    // The last read fails when the inner end is gone.
    let _ = terminal.read_to_end(&mut text);
    assert_eq!(running.wait().expect("it runs"), Exit::Code(0));
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    assert!(text.contains("/dev/pts/0\n") && text.contains("7 33\n") && text.ends_with("got typed\n"), "{text}");
}

#[test]
fn chroot_steps() {
    let root = Root::new();
    fs::create_dir(root.lower().join("dev")).expect("a folder");
    fs::write(root.lower().join("dev/null"), "").expect("what a shell opens");
    let spec = |script: &str| {
        let mut spec = SandboxSpec::new(RootMount::Directory(root.lower()), process(&["sh", "-c", script]));
        spec.isolation = Isolation::Chroot;
        spec.network = NetworkMode::Host;
        spec
    };
    let marker = format!("5{:07}", std::process::id());
    let script = format!(
        "echo here; ls /; (setsid sleep {marker} &); sleep {marker} & (setsid sh -c 'sleep {marker}; :' &); exit 4"
    );
    let (exit, text) = run(spec(&script));
    assert_eq!((exit.expect("it runs"), text.as_str()), (Exit::Code(4), "here\nbin\ndev\netc\nmnt\ntmp\nwork\n"));
    assert!(!alive(&marker), "a background process outlived the step");
    let (running, mut output) = start(spec(&format!("echo up; sleep {marker} & sleep {marker}")));
    output.read_exact(&mut [0; 3]).expect("it is up");
    drop(running);
    assert!(!alive(&marker));
    let mut unmountable = spec("true");
    unmountable.mounts.push(mount("mnt", MountSource::Bind("/etc".into()), true));
    assert!(matches!(run(unmountable).0, Err(SandboxError::NeedsNamespaces { .. })));
}

#[test]
fn nothing_stays_mounted() {
    let count = || {
        fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().filter(|l| l.contains("overlay")).count()
    };
    let before = count();
    for _ in 0..3 {
        assert_eq!(shell(&Root::new(), "true").0, Exit::Code(0));
    }
    assert_eq!(count(), before);
    assert!(Path::new("/proc/self/ns/mnt").exists());
}

/// Forks of other steps hold copies of each other's pipes for a moment; no step may wait for another because of it.
#[test]
fn many_steps_at_once() {
    let slow = Root::new();
    let (running, mut output) = start(slow.spec(&["sh", "-c", "echo up; sleep 1000"]));
    let running = running.expect("it starts");
    output.read_exact(&mut [0; 3]).expect("it is up");
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                let root = Root::new();
                for step in 0..10u8 {
                    let code = thread * 10 + step;
                    let (exit, text) = run(root.spec(&["sh", "-c", &format!("echo {code}; exit {code}")]));
                    assert_eq!((exit.expect("it runs"), text), (Exit::Code(code), format!("{code}\n")));
                }
            });
        }
    });
    std::thread::scope(|scope| {
        let end = scope.spawn(|| running.wait());
        running.kill();
        assert_eq!(end.join().expect("no panic").expect("killed"), Exit::Signal(9));
    });
}
