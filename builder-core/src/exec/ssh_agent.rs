//! SSH agent forwarding for `RUN --mount=type=ssh`.
//!
//! ```text
//! step -- socket in a private folder -- AgentSocket -- the user's agent (SSH_AUTH_SOCK)
//!                                                  `-- or one that rbuild started for key files
//! ```
//!
//! Only two requests of the agent protocol (draft-ietf-sshm-ssh-agent, section 3) pass: listing the keys and signing
//! with one. All others, extensions included, are answered with a failure and never reach the agent, so a step can't
//! add, remove or lock anything. Messages and connections are bounded.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};

const SOCKET_NAME: &str = "agent";
/// As in OpenSSH's own agent, in bytes.
const GREATEST_MESSAGE: usize = 256 * 1024;
const MOST_CONNECTIONS: usize = 64;
/// COMPAT(buildkit): the same limit on a key file, in bytes.
const GREATEST_KEY: u64 = 100 * 1024;
const GREATEST_HELPER_OUTPUT: usize = 4 * 1024;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// An agent could not be made available to a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum SshError {
    /// Nothing says which agent is meant.
    #[error("no ssh agent to forward: neither a socket nor a key was given, and there is no agent of the user's")]
    NoAgent,
    /// A socket was given beside other paths.
    #[error("`{path}` is the socket of an agent: no key can be given beside it")]
    SocketAndKeys {
        /// The socket.
        path: String,
    },
    /// A key file is larger than any key.
    #[error("`{path}` has more than {limit} bytes: it can't be an ssh key")]
    KeyTooLarge {
        /// The key file.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A program that key files need is not installed.
    #[error("ssh keys need the program `{program}`, which was not found")]
    ProgramMissing {
        /// Its name.
        program: &'static str,
    },
    /// A key was refused.
    #[error("ssh-add refused the key `{path}`: {message}")]
    KeyRefused {
        /// The key file.
        path: String,
        /// What `ssh-add` said.
        message: String,
    },
    /// A system call failed.
    #[error("could not {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path it was tried on.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> SshError {
    move |source| SshError::Io { action, path: path.display().to_string(), source }
}

/// Which keys an id of `--ssh` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AgentSource {
    /// Those of the agent that listens on a socket.
    Socket(PathBuf),
    /// Those in files.
    Keys(Vec<PathBuf>),
}

impl AgentSource {
    /// Decides what the paths of `--ssh id=path,...` are: one socket, or any number of keys. Without a path it is
    /// the user's own agent, whose socket (`SSH_AUTH_SOCK`) the caller hands in.
    ///
    /// # Errors
    /// When a path can't be looked at, when a socket is mixed with keys, or when there is no agent.
    pub(super) fn from_paths(paths: &[PathBuf], own_agent: Option<&Path>) -> Result<Self, SshError> {
        if paths.is_empty() {
            return own_agent.map(|path| Self::Socket(path.to_path_buf())).ok_or(SshError::NoAgent);
        }
        for path in paths {
            let metadata = std::fs::metadata(path).map_err(error("find", path))?;
            if metadata.file_type().is_socket() {
                if paths.len() > 1 {
                    return Err(SshError::SocketAndKeys { path: path.display().to_string() });
                }
                return Ok(Self::Socket(path.clone()));
            }
        }
        Ok(Self::Keys(paths.to_vec()))
    }
}

/// An agent to forward to, alive as long as this value.
#[derive(Debug)]
pub(super) struct HostAgent {
    socket: PathBuf,
    /// The agent that holds the key files' keys, and its folder.
    private: Option<(Child, tempfile::TempDir)>,
}

impl HostAgent {
    /// Opens the agent; for key files, starts a private one. `folder` is where its socket is put; `search_path` is
    /// where programs are looked for, in the form of `PATH`.
    ///
    /// # Errors
    /// When a program is missing or a key is refused (one with a passphrase is).
    pub(super) fn open(source: &AgentSource, folder: &Path, search_path: &OsStr) -> Result<Self, SshError> {
        match source {
            AgentSource::Socket(path) => Ok(Self { socket: path.clone(), private: None }),
            AgentSource::Keys(keys) => Self::start(keys, folder, search_path),
        }
    }

    fn start(keys: &[PathBuf], folder: &Path, search_path: &OsStr) -> Result<Self, SshError> {
        let agent_program = find_program("ssh-agent", search_path)?;
        let add_program = find_program("ssh-add", search_path)?;
        let private = private_folder(folder)?;
        let socket = private.path().join(SOCKET_NAME);
        let child = Command::new(&agent_program)
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(error("start", &agent_program))?;
        let mut agent = Self { socket, private: Some((child, private)) };
        agent.wait_until_ready(&agent_program)?;
        keys.iter().try_for_each(|key| agent.add(key, &add_program))?;
        Ok(agent)
    }

    /// The agent says where it listens as soon as it does.
    fn wait_until_ready(&mut self, program: &Path) -> Result<(), SshError> {
        let Some((child, _)) = &mut self.private else { return Ok(()) };
        let output = child.stdout.take().expect("the output was asked for");
        let mut line = Vec::new();
        for byte in io::BufReader::new(output).bytes().take(GREATEST_HELPER_OUTPUT) {
            match byte.map_err(error("read from", program))? {
                b'\n' => return Ok(()),
                byte => line.push(byte),
            }
        }
        let source = io::Error::other("it ended before it listened");
        Err(SshError::Io { action: "start", path: program.display().to_string(), source })
    }

    fn add(&self, key: &Path, program: &Path) -> Result<(), SshError> {
        let mut text = Vec::new();
        let file = std::fs::File::open(key).map_err(error("open", key))?;
        file.take(GREATEST_KEY + 1).read_to_end(&mut text).map_err(error("read", key))?;
        if text.len() as u64 > GREATEST_KEY {
            return Err(SshError::KeyTooLarge { path: key.display().to_string(), limit: GREATEST_KEY });
        }
        // Through standard input, so the file's mode does not matter. No terminal is asked for a passphrase.
        let mut child = Command::new(program)
            .args(["-q", "-"])
            .env_clear()
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(error("start", program))?;
        if let Some(mut input) = child.stdin.take() {
            // A refusal is told by the exit status, not by a broken pipe.
            let _ = input.write_all(&text);
        }
        let output = child.wait_with_output().map_err(error("wait for", program))?;
        if output.status.success() {
            return Ok(());
        }
        let said = &output.stderr[..output.stderr.len().min(GREATEST_HELPER_OUTPUT)];
        let message = String::from_utf8_lossy(said).split_whitespace().collect::<Vec<_>>().join(" ");
        Err(SshError::KeyRefused { path: key.display().to_string(), message })
    }

    /// Opens a socket for one step in a folder of its own below `folder`.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub(super) fn forward(&self, folder: &Path, owner: SocketOwner) -> Result<AgentSocket, SshError> {
        AgentSocket::open(self.socket.clone(), folder, owner)
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.private {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Who may use a step's socket, as the step sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketOwner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl Default for SocketOwner {
    fn default() -> Self {
        Self { uid: 0, gid: 0, mode: 0o600 }
    }
}

/// A step's socket. Dropping it ends all connections and removes the socket.
#[derive(Debug)]
pub(super) struct AgentSocket {
    path: PathBuf,
    _folder: tempfile::TempDir,
    connections: Arc<Connections>,
    /// Closing it wakes the thread that accepts.
    stop: Option<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
}

impl AgentSocket {
    /// Where the socket is: to be mounted into the step.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn open(agent: PathBuf, folder: &Path, owner: SocketOwner) -> Result<Self, SshError> {
        let folder = private_folder(folder)?;
        let path = folder.path().join(SOCKET_NAME);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, folder.path(), flags, Mode::empty())
            .map_err(|source| error("open", folder.path())(source.into()))?;
        // A socket's address holds 107 bytes only; a path through the folder's descriptor is always short enough.
        let address = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
        let listener = UnixListener::bind(&address).map_err(error("listen on", &path))?;
        listener.set_nonblocking(true).map_err(error("listen on", &path))?;
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::chownat(&directory, SOCKET_NAME, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| {
                let mode = Mode::from_raw_mode(owner.mode & 0o777);
                rustix::fs::chmodat(&directory, SOCKET_NAME, mode, AtFlags::empty())
            })
            .map_err(|source| error("set the owner of", &path)(source.into()))?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|source| error("listen on", &path)(source.into()))?;
        let connections = Arc::new(Connections::default());
        let shared = Arc::clone(&connections);
        let acceptor = std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || accept(&listener, &stopped, &agent, &shared))
            .map_err(error("listen on", &path))?;
        Ok(Self { path, _folder: folder, connections, stop: Some(stop), acceptor: Some(acceptor) })
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.connections.close();
    }
}

/// The open connections, so that they can be cut.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<HashMap<u64, [UnixStream; 2]>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Connections {
    fn close(&self) {
        for [step, agent] in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = step.shutdown(Shutdown::Both);
            let _ = agent.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &UnixListener, stopped: &OwnedFd, agent: &Path, connections: &Arc<Connections>) {
    for number in 0.. {
        let stream = loop {
            let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            if rustix::event::poll(&mut waiting, None).is_err() {
                continue;
            }
            if !waiting[1].revents().is_empty() {
                return;
            }
            match listener.accept() {
                Ok((stream, _)) => break stream,
                // The one that waited has gone, or descriptors are short: the next one may do better.
                Err(_) => std::thread::yield_now(),
            }
        };
        // When something here fails, the step sees its connection closed.
        let _ = connect(number, stream, agent, connections);
    }
}

fn connect(number: u64, step: UnixStream, agent: &Path, connections: &Arc<Connections>) -> io::Result<()> {
    {
        let mut threads = connections.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
    }
    step.set_nonblocking(false)?;
    let upstream = UnixStream::connect(agent)?;
    {
        let mut open = connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST_CONNECTIONS {
            return Ok(());
        }
        open.insert(number, [step.try_clone()?, upstream.try_clone()?]);
    }
    let shared = Arc::clone(connections);
    let thread = std::thread::Builder::new().name("ssh-agent-relay".to_owned()).spawn(move || {
        let _ = relay(step, upstream);
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    });
    match thread {
        Ok(thread) => connections.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
        Err(error) => {
            connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            return Err(error);
        }
    }
    Ok(())
}

/// Answers one connection's requests until it closes or breaks the protocol.
fn relay(mut step: impl Read + Write, mut agent: impl Read + Write) -> io::Result<()> {
    while let Some(request) = read_message(&mut step)? {
        let wanted = match request.first() {
            Some(&REQUEST_IDENTITIES) if request.len() == 1 => IDENTITIES_ANSWER,
            Some(&SIGN_REQUEST) => SIGN_RESPONSE,
            _ => {
                write_message(&mut step, &[FAILURE])?;
                continue;
            }
        };
        write_message(&mut agent, &request)?;
        match read_message(&mut agent)? {
            Some(answer) if answer.first() == Some(&wanted) => write_message(&mut step, &answer)?,
            Some(_) => write_message(&mut step, &[FAILURE])?,
            None => break,
        }
    }
    Ok(())
}

/// Reads a message without its length; `None` where the other side closed before one began.
fn read_message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > GREATEST_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an agent message of an impossible length"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).expect("messages are bounded");
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed)
}

fn private_folder(folder: &Path) -> Result<tempfile::TempDir, SshError> {
    // `tempfile` makes it accessible to its owner alone.
    tempfile::Builder::new().prefix("ssh-").tempdir_in(folder).map_err(error("make a folder in", folder))
}

fn find_program(program: &'static str, search_path: &OsStr) -> Result<PathBuf, SshError> {
    std::env::split_paths(search_path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
        .ok_or(SshError::ProgramMissing { program })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

    /// An agent that answers every request with a fixed message per type and notes what it saw.
    fn fake_agent(folder: &Path) -> (PathBuf, Arc<Mutex<Vec<u8>>>) {
        let path = folder.join("fake");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while let Ok(Some(message)) = read_message(&mut stream) {
                    noted.lock().unwrap().push(message[0]);
                    let answer = match message[0] {
                        REQUEST_IDENTITIES => vec![IDENTITIES_ANSWER, 0, 0, 0, 0],
                        SIGN_REQUEST => vec![SIGN_RESPONSE, 1, 2, 3],
                        _ => vec![6],
                    };
                    write_message(&mut stream, &answer).unwrap();
                }
            }
        });
        (path, seen)
    }

    fn ask(stream: &mut UnixStream, message: &[u8]) -> Option<Vec<u8>> {
        write_message(stream, message).unwrap();
        read_message(stream).unwrap()
    }

    #[test]
    fn only_listing_and_signing_pass() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, seen) = fake_agent(folder.path());
        let host = HostAgent::open(&AgentSource::Socket(agent), folder.path(), OsStr::new(SEARCH_PATH)).unwrap();
        let socket = host.forward(folder.path(), SocketOwner::default()).unwrap();
        let mut stream = UnixStream::connect(socket.path()).unwrap();
        assert_eq!(ask(&mut stream, &[REQUEST_IDENTITIES]), Some(vec![IDENTITIES_ANSWER, 0, 0, 0, 0]));
        assert_eq!(ask(&mut stream, &[SIGN_REQUEST, 9, 9]), Some(vec![SIGN_RESPONSE, 1, 2, 3]));
        // Adding, removing, locking, smart cards, extensions and what nobody knows.
        for refused in [1, 7, 9, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 0, 255] {
            assert_eq!(ask(&mut stream, &[refused, 1, 2]), Some(vec![FAILURE]), "{refused}");
        }
        assert_eq!(*seen.lock().unwrap(), [REQUEST_IDENTITIES, SIGN_REQUEST]);
        let path = socket.path().to_path_buf();
        drop(socket);
        assert!(!path.exists() && !path.parent().unwrap().exists());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection was cut");
    }

    #[test]
    fn impossible_lengths_end_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, seen) = fake_agent(folder.path());
        let host = HostAgent::open(&AgentSource::Socket(agent), folder.path(), OsStr::new(SEARCH_PATH)).unwrap();
        let socket = host.forward(folder.path(), SocketOwner::default()).unwrap();
        for length in [u32::MAX, 0, 256 * 1024 + 1] {
            let mut stream = UnixStream::connect(socket.path()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            let ended = stream.read(&mut [0]);
            assert!(matches!(ended, Ok(0) | Err(_)), "{length}");
        }
        assert!(seen.lock().unwrap().is_empty());
    }

    #[test]
    fn connections_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, _) = fake_agent(folder.path());
        let connections = Arc::new(Connections::default());
        let pairs: Vec<_> = (0..MOST_CONNECTIONS as u64 + 5)
            .map(|number| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                connect(number, theirs, &agent, &connections).unwrap();
                ours
            })
            .collect();
        assert_eq!(connections.open.lock().unwrap().len(), MOST_CONNECTIONS);
        drop(pairs);
        connections.close();
    }

    #[test]
    fn key_files_are_served_by_a_private_agent() {
        if find_program("ssh-agent", OsStr::new(SEARCH_PATH)).is_err() {
            println!("skipped: no ssh-agent");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
        assert!(made.success());
        let source = AgentSource::from_paths(std::slice::from_ref(&key), None).unwrap();
        assert_eq!(source, AgentSource::Keys(vec![key.clone()]));
        let host = HostAgent::open(&source, folder.path(), OsStr::new(SEARCH_PATH)).unwrap();
        let socket = host.forward(folder.path(), SocketOwner::default()).unwrap();
        let mut stream = UnixStream::connect(socket.path()).unwrap();
        let answer = ask(&mut stream, &[REQUEST_IDENTITIES]).unwrap();
        assert_eq!(answer[..5], [IDENTITIES_ANSWER, 0, 0, 0, 1]);
        drop((socket, host));

        std::fs::write(&key, "no key").unwrap();
        let refused = HostAgent::open(&source, folder.path(), OsStr::new(SEARCH_PATH)).unwrap_err();
        assert!(matches!(refused, SshError::KeyRefused { .. }), "{refused}");
        let missing = HostAgent::open(&source, folder.path(), OsStr::new("/nowhere")).unwrap_err();
        assert!(matches!(missing, SshError::ProgramMissing { program: "ssh-agent" }));
    }

    #[test]
    fn paths_are_a_socket_or_keys() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, _) = fake_agent(folder.path());
        let own = PathBuf::from("/run/own");
        assert_eq!(AgentSource::from_paths(&[], Some(&own)).unwrap(), AgentSource::Socket(own));
        assert!(matches!(AgentSource::from_paths(&[], None), Err(SshError::NoAgent)));
        assert_eq!(
            AgentSource::from_paths(std::slice::from_ref(&agent), None).unwrap(),
            AgentSource::Socket(agent.clone())
        );
        let key = folder.path().join("key");
        std::fs::write(&key, "k").unwrap();
        assert!(matches!(AgentSource::from_paths(&[key, agent], None), Err(SshError::SocketAndKeys { .. })));
    }
}
