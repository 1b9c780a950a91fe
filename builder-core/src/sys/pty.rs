//! Terminals.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The two ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Who shows it: reads the output, writes what is typed.
    pub outer: OwnedFd,
    /// Who runs in it.
    pub inner: OwnedFd,
}

/// Opens a terminal of a devpts file system, or of the host's without one.
///
/// The inner end is opened through the outer one and never by name, so no path can be swapped in between (Linux 4.13).
///
/// # Errors
/// When the file system gives no more terminals.
pub fn open(terminals: Option<BorrowedFd<'_>>, size: Size) -> io::Result<Terminal> {
    let outer = match terminals {
        Some(directory) => {
            rustix::fs::openat(directory, "ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?
        }
        None => rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?,
    };
    rustix::pty::unlockpt(&outer)?;
    resize(&outer, size)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags)?;
    Ok(Terminal { outer, inner })
}

/// Tells the programs in a terminal its new size.
///
/// # Errors
/// When the descriptor is no terminal.
pub fn resize(terminal: impl std::os::fd::AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
