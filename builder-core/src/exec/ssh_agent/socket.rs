//! A step's socket: what of the agent's protocol passes it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};

use super::{SOCKET_NAME, SshError, error, private_folder};

/// As in OpenSSH's own agent, in bytes.
const GREATEST_MESSAGE: usize = 256 * 1024;
const MOST_CONNECTIONS: usize = 64;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Who may use a step's socket, as the step sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) struct SocketOwner {
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
pub(in crate::exec) struct AgentSocket {
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
    pub(in crate::exec) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn open(agent: PathBuf, folder: &Path, owner: SocketOwner) -> Result<Self, SshError> {
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

#[cfg(test)]
mod tests;
