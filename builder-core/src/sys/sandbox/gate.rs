//! The gate before a step's first socket.
//!
//! Connecting a network takes longer than most commands, and most commands never use it. So a step may begin in a
//! namespace that is not connected yet, and its filter holds back every call for a socket that is not a local one:
//!
//! ```text
//! command  installs the filter ----- listener ----> rbuild       over a socket pair, before exec
//! command  socket(AF_INET, …)  ----- notice ------> rbuild       connects the network
//!          … goes on           <---- go on --------
//! ```
//!
//! Where the filter can't have a listener (this process has one already, say in a container whose manager listens), the
//! command's process says so and waits before exec, for one byte, until the network is connected.
//!
//! Invariants: whoever waits at the gate is let through or killed with its step; there is no third answer. A call that
//! was let through is not looked at again, and nothing is read of the step's memory.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::error::SandboxError;
use crate::sys::seccomp;

/// What the command's process sends: along with the listener, or alone where it waits for the network.
const LISTENER: u8 = 1;
const WAITS: u8 = 2;
/// What it is sent when the network is connected.
const CONNECTED: u8 = 3;

/// One descriptor's room beside a message.
const ROOM: usize = rustix::cmsg_space!(ScmRights(1));

/// Our side of a step's gate. Dropping it leaves whoever comes with an error, so that is for steps that are gone.
#[derive(Debug)]
pub struct Gate {
    channel: OwnedFd,
    listener: Option<OwnedFd>,
    /// The call that came first.
    held: Option<u64>,
}

/// What was seen at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtGate {
    /// Nobody waits there.
    Nobody,
    /// Somebody waits for the network: connect it, and [`open`](Gate::open) the gate.
    Waiting {
        /// Whether the command could not be started without it.
        before_start: bool,
    },
    /// Nobody will come any more.
    Closed,
}

/// Makes our side, and the one for the command's process.
pub(super) fn pair() -> Result<(Gate, OwnedFd), SandboxError> {
    let (channel, inner) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| SandboxError::Prepare { what: "the gate before the network", source: error.into() })?;
    Ok((Gate { channel, listener: None, held: None }, inner))
}

impl Gate {
    /// Takes what has come, and tells whether somebody waits. Call it when the gate is readable.
    pub fn look(&mut self) -> AtGate {
        let Some(listener) = &self.listener else { return self.greet() };
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(0) | Err(Errno::INTR) => AtGate::Nobody,
            // No process is left that the filter holds. Asking for a call would wait for ever.
            Ok(_) if !fds[0].revents().contains(PollFlags::IN) => AtGate::Closed,
            Ok(_) => match receive(listener.as_fd()) {
                Ok(None) => AtGate::Nobody,
                Ok(held) => {
                    self.held = held;
                    AtGate::Waiting { before_start: false }
                }
                Err(_) => AtGate::Closed,
            },
            Err(_) => AtGate::Closed,
        }
    }

    /// Reads what the command's process says before it starts the command.
    fn greet(&mut self) -> AtGate {
        let mut space = [MaybeUninit::uninit(); ROOM];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut word = [0u8];
        let received = recvmsg(&self.channel, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (received.map(|message| message.bytes), word[0], descriptor) {
            (Ok(1), LISTENER, Some(listener)) => {
                self.listener = Some(listener);
                AtGate::Nobody
            }
            (Ok(1), WAITS, _) => AtGate::Waiting { before_start: true },
            (Err(Errno::INTR), ..) => AtGate::Nobody,
            _ => AtGate::Closed,
        }
    }

    /// Lets everybody through, until no process of the step is left that could come. `step` names its first process.
    ///
    /// The network must be connected.
    pub fn open(self, step: BorrowedFd<'_>) {
        let Some(listener) = &self.listener else {
            let _ = rustix::io::write(&self.channel, &[CONNECTED]);
            return;
        };
        let listener = listener.as_fd();
        let mut held = self.held;
        loop {
            if let Some(id) = held {
                // A caller that is gone needs no answer.
                let _ = seccomp::go_on(listener, id);
            }
            let fds = &mut [PollFd::from_borrowed_fd(listener, PollFlags::IN), PollFd::new(&step, PollFlags::IN)];
            match poll(fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            held = None;
            if fds[0].revents().contains(PollFlags::IN) {
                let Ok(received) = receive(listener) else { return };
                held = received;
            } else if fds.iter().any(|fd| !fd.revents().is_empty()) {
                return;
            }
        }
    }

    /// Holds everybody until the step, which is killed already, is gone: an error would let them go on till then.
    pub fn hold(self, step: BorrowedFd<'_>) {
        while let Err(Errno::INTR) = poll(&mut [PollFd::from_borrowed_fd(step, PollFlags::IN)], None) {}
    }
}

impl AsFd for Gate {
    /// What becomes readable when there is something to [`look`](Gate::look) at.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_ref().unwrap_or(&self.channel).as_fd()
    }
}

/// The call that came; `None` where its caller is gone again.
fn receive(listener: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    match seccomp::receive(listener) {
        Ok(id) => Ok(Some(id)),
        Err(Errno::NOENT | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// In the command's process: hands the listener over.
pub(super) fn hand_over(channel: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); ROOM];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    sendmsg(channel, &[IoSlice::new(&[LISTENER])], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// In the command's process: waits until the network is connected.
pub(super) fn wait(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(channel, &[WAITS])?;
    let mut word = [0u8];
    loop {
        match rustix::io::read(channel, &mut word) {
            Ok(1) if word[0] == CONNECTED => return Ok(()),
            Err(Errno::INTR) => {}
            Ok(_) => return Err(Errno::PIPE),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
