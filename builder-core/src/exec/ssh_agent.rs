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

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

mod socket;

use socket::AgentSocket;
pub(super) use socket::SocketOwner;

const SOCKET_NAME: &str = "agent";
/// COMPAT(buildkit): the same limit on a key file, in bytes.
const GREATEST_KEY: u64 = 100 * 1024;
const GREATEST_HELPER_OUTPUT: usize = 4 * 1024;

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
