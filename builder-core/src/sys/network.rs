//! The network of steps.
//!
//! [`PrivateNetwork`] is one network namespace for a whole build, connected by `pasta`: user-mode networking that
//! needs no privilege and carries no port of the host inside. The host's loopback, its abstract sockets and its own
//! addresses are out of reach; what the host can reach outside can be reached.
//!
//! Starting `pasta` takes longer than a short command, so the namespace may be made first and connected when a step wants a
//! socket (see the gate of the [`sandbox`](super::sandbox)).
//!
//! `pasta` runs as a step itself (its own PID namespace, watched over the life line), so it ends with rbuild however
//! rbuild ends. The namespace has no name: it exists as a descriptor, and in pasta's mount namespace as a file.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use super::call;
use super::mount::{self, MountError, Restrictions};
use super::process::find_program;
use super::sandbox::{
    Mount, MountSource, NetworkMode, Process, RootMount, Running, SandboxError, SandboxSpec, SecurityMode, Stdio, spawn,
};
use crate::tree::TreePath;

/// Queries to this address go to the host's first resolver, wherever that listens.
pub const DNS_FORWARD: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));

/// What an interface is made with.
const TUNNEL: &str = "/dev/net/tun";

/// Where pasta finds the namespace.
const NAMESPACE_FILE: &str = "dev/rbuild-network";
/// The most that is kept of what pasta says when it fails.
const MESSAGE_LIMIT: u64 = 4096;

/// It takes some ten milliseconds; a host that is this slow is stuck.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the wait for it looks whether it is still wanted.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A private network could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The program is not installed.
    #[error("`pasta` was not found in `{}`", search_path.display())]
    PastaMissing {
        /// Where it was looked for.
        search_path: OsString,
    },
    /// The device that the program needs is missing, or this user may not open it.
    #[error("`{TUNNEL}`, which `pasta` needs, cannot be opened")]
    Tunnel {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel gives no network namespace.
    #[error("cannot create a network namespace")]
    Namespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// The program's view of the host could not be made.
    #[error("cannot prepare the root of `pasta`")]
    Root {
        /// Why.
        source: MountError,
    },
    /// The program could not be started.
    #[error("cannot start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: Box<SandboxError>,
    },
    /// The program ended before the network was up.
    #[error("`{}` could not connect the network: {message}", program.display())]
    Connect {
        /// The program.
        program: PathBuf,
        /// What it said.
        message: String,
    },
    /// The caller gave up waiting for it.
    #[error("the network was given up before `{}` had connected it", program.display())]
    GivenUp {
        /// The program.
        program: PathBuf,
    },
}

/// A network namespace with user-mode networking, connected or not yet; dropping it ends both.
#[derive(Debug)]
pub struct PrivateNetwork {
    program: PathBuf,
    namespace: Arc<OwnedFd>,
    /// Held while pasta starts.
    connecting: Mutex<()>,
    pasta: OnceLock<Running>,
}

impl PrivateNetwork {
    /// Makes a namespace that is not connected yet.
    ///
    /// `search_path` is a list as in `PATH`. Needs root or an own user namespace.
    ///
    /// # Errors
    /// When pasta or the device that it needs is missing, or the kernel gives no namespace. A step that waits for a
    /// network in vain is started again, so what can be known before is asked before.
    pub fn prepare(search_path: &OsStr) -> Result<Self, NetworkError> {
        let program = find_program("pasta", search_path)
            .ok_or_else(|| NetworkError::PastaMissing { search_path: search_path.into() })?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(TUNNEL, flags, Mode::empty())
            .map_err(|error| NetworkError::Tunnel { source: error.into() })?;
        let namespace = create_namespace().map_err(|source| NetworkError::Namespace { source })?;
        Ok(Self { program, namespace: Arc::new(namespace), connecting: Mutex::new(()), pasta: OnceLock::new() })
    }

    /// As [`prepare`](Self::prepare), and connects it.
    ///
    /// # Errors
    /// As there, and when pasta fails.
    pub fn start(search_path: &OsStr) -> Result<Self, NetworkError> {
        let network = Self::prepare(search_path)?;
        network.connect(&|| false)?;
        Ok(network)
    }

    /// Connects the namespace. Returns when the interface is configured, at once where it is already, and with an error
    /// soon after `give_up` gives true.
    ///
    /// # Errors
    /// When pasta fails, for example because the host has no default route. It may be tried again.
    pub fn connect(&self, give_up: &dyn Fn() -> bool) -> Result<(), NetworkError> {
        let _alone = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pasta.get().is_none() {
            let pasta = connect(&self.program, &self.namespace, give_up)?;
            self.pasta.get_or_init(|| pasta);
        }
        Ok(())
    }

    /// The network for a step, which waits for [`connect`](Self::connect) at a gate where that was not done yet.
    #[must_use]
    pub fn mode(&self) -> NetworkMode {
        let namespace = Arc::clone(&self.namespace);
        if self.pasta.get().is_some() { NetworkMode::Namespace(namespace) } else { NetworkMode::Gated(namespace) }
    }
}

/// A new network namespace with loopback up, made on a thread that is then gone.
fn create_namespace() -> io::Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        call::unshare(libc::CLONE_NEWNET)?;
        call::loopback_up()?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?)
    };
    std::thread::scope(|scope| {
        scope.spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("the thread of the namespace panicked")))
    })
}

fn connect(program: &Path, namespace: &OwnedFd, give_up: &dyn Fn() -> bool) -> Result<Running, NetworkError> {
    let root = mount::bind_recursive(Path::new("/"), Restrictions::default())
        .map_err(|source| NetworkError::Root { source })?;
    let forward = DNS_FORWARD.to_string();
    let file = format!("/{NAMESPACE_FILE}");
    let arguments: Vec<OsString> = [program.as_os_str()]
        .into_iter()
        .chain(
            [
                // Stays our child, and stays uid 0 of this user namespace, to whom the network namespace belongs.
                "--foreground",
                "--quiet",
                "--runas",
                "0",
                "--netns-only",
                "--netns",
                &file,
                "--config-net",
                // Nothing of the host inside: neither its loopback under the gateway's address nor any port.
                "--no-map-gw",
                "-t",
                "none",
                "-u",
                "none",
                "-T",
                "none",
                "-U",
                "none",
                "--dns-forward",
                &forward,
                // Written when all is set up: the sign to go on.
                "--pid",
                "/dev/stdout",
            ]
            .into_iter()
            .map(OsStr::new),
        )
        .map(OsStr::to_owned)
        .collect();
    let process = Process { arguments, working_directory: "/".into(), ..Process::default() };
    let spec = SandboxSpec {
        mounts: vec![Mount {
            target: TreePath::clean(NAMESPACE_FILE.as_bytes()),
            source: MountSource::Bind(mount::descriptor_path(std::os::fd::AsFd::as_fd(namespace)).into()),
            read_only: false,
        }],
        network: NetworkMode::Host,
        security: SecurityMode::Insecure,
        ..SandboxSpec::new(RootMount::Detached(root), process)
    };
    let failed = |source: SandboxError| NetworkError::Start { program: program.into(), source: Box::new(source) };
    let pipe = || io::pipe().map_err(|source| failed(SandboxError::Prepare { what: "a pipe", source }));
    let ((mut ready, stdout), (messages, stderr)) = (pipe()?, pipe()?);
    let pasta = spawn(spec, Stdio::Descriptors { stdin: None, stdout: stdout.into(), stderr: stderr.into() })
        .map_err(failed)?;
    let started = Instant::now();
    while !is_readable(&ready).map_err(|source| failed(SandboxError::Wait { source }))? {
        if give_up() {
            return Err(NetworkError::GivenUp { program: program.into() });
        }
        if started.elapsed() >= START_TIMEOUT {
            let message = format!("no answer in {} s", START_TIMEOUT.as_secs());
            return Err(NetworkError::Connect { program: program.into(), message });
        }
    }
    if matches!(ready.read(&mut [0; 32]), Ok(length) if length > 0) {
        return Ok(pasta);
    }
    let exit = pasta.wait().map_err(failed)?;
    let mut text = String::new();
    let _ = messages.take(MESSAGE_LIMIT).read_to_string(&mut text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("syslog"));
    let message = lines.collect::<Vec<_>>().join("; ");
    let message = if message.is_empty() { format!("it ended with status {}", exit.code()) } else { message };
    Err(NetworkError::Connect { program: program.into(), message })
}

/// Whether there is something to read (or the end), now or in a moment.
fn is_readable(stream: &io::PipeReader) -> io::Result<bool> {
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&LOOK_EVERY)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        result => Ok(result? > 0),
    }
}

/// Where the host says who resolves names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers behind systemd's stub, which listens on loopback only.
const SYSTEMD_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const SYSTEMD_STUB: &str = "127.0.0.53";

/// Reads the host's `resolv.conf`, or the one behind it when it names nothing but systemd's stub.
///
/// # Errors
/// When the file exists and cannot be read; without one the answer is empty.
pub fn host_resolv_conf() -> io::Result<Vec<u8>> {
    let read = |path: &str| -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(1 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let host = match read(RESOLV_CONF) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    let text = String::from_utf8_lossy(&host);
    let mut servers = text.lines().filter_map(name_server).peekable();
    let only_stub = servers.peek().is_some() && servers.all(|server| server == SYSTEMD_STUB);
    if only_stub { read(SYSTEMD_UPSTREAM).or(Ok(host)) } else { Ok(host) }
}

/// Which network the reader of a `resolv.conf` is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolverView {
    /// The host's, where every server of the host answers.
    Host,
    /// One of its own, where loopback is not the host's.
    Private {
        /// Leads to the host's first server; see [`DNS_FORWARD`].
        forward: IpAddr,
    },
}

/// The `resolv.conf` of a step. On a network of its own the forwarding address comes first, and the host's servers on
/// loopback are left out.
#[must_use]
pub fn resolv_conf(host: &[u8], view: ResolverView) -> Vec<u8> {
    let ResolverView::Private { forward } = view else { return host.to_vec() };
    let text = String::from_utf8_lossy(host);
    // First, because older versions of pasta answer in this address's name also for the server behind it.
    let mut result = format!("nameserver {forward}\n");
    for line in text.lines().filter(|line| !name_server(line).is_some_and(is_loopback)) {
        result.push_str(line);
        result.push('\n');
    }
    result.into_bytes()
}

fn name_server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next())?
}

fn is_loopback(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or(server);
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_unspecified(),
        Ok(IpAddr::V6(address)) => {
            // A link-local server is named with an interface that a step does not have.
            let link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            address.is_loopback() || address.is_unspecified() || link_local
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_loopback_are_left_out() {
        let view = ResolverView::Private { forward: DNS_FORWARD };
        let cases = [
            ("nameserver 192.0.2.1\nsearch a.example\n", "nameserver 192.0.2.1\nsearch a.example\n"),
            ("nameserver 127.0.0.1\n", ""),
            ("# x\nnameserver ::1\nnameserver fe80::1%eth0\noptions edns0", "# x\noptions edns0\n"),
            ("nameserver 127.0.0.53\nnameserver 2001:db8::1\n", "nameserver 2001:db8::1\n"),
            ("", ""),
        ];
        for (host, want) in cases {
            let want = format!("nameserver 169.254.1.1\n{want}");
            assert_eq!(String::from_utf8_lossy(&resolv_conf(host.as_bytes(), view)), want);
            assert_eq!(resolv_conf(host.as_bytes(), ResolverView::Host), host.as_bytes());
        }
    }
}
