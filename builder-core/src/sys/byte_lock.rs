//! Locks on single bytes of a file, by which processes claim things without writing anything down.
//!
//! They are locks of an open file description (`F_OFD_SETLK`, Linux 3.15): the kernel gives them up when the last
//! descriptor of it is closed, however its process ends. The bytes need not exist. Within one open file they never
//! conflict, so who wants to find others' locks of the same process opens the file anew.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Who else may lock the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteLock {
    /// Others may share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Locks a byte; waits while others forbid it.
///
/// # Errors
/// `EINVAL` where the kernel or the file system has no such locks.
pub fn lock_byte(file: BorrowedFd<'_>, byte: u64, kind: ByteLock) -> Result<(), Errno> {
    loop {
        match change(file, byte, libc::F_OFD_SETLKW, type_of(kind)) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Locks a byte, unless others forbid it now; whether it did.
///
/// # Errors
/// As [`lock_byte`].
pub fn try_lock_byte(file: BorrowedFd<'_>, byte: u64, kind: ByteLock) -> Result<bool, Errno> {
    match change(file, byte, libc::F_OFD_SETLK, type_of(kind)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives up every lock that this open file has.
///
/// # Errors
/// As [`lock_byte`].
pub fn unlock_all(file: BorrowedFd<'_>) -> Result<(), Errno> {
    set(file, 0, 0, libc::F_OFD_SETLK, libc::F_UNLCK)
}

/// Gives up the lock on a byte.
///
/// # Errors
/// As [`lock_byte`].
pub fn unlock_byte(file: BorrowedFd<'_>, byte: u64) -> Result<(), Errno> {
    change(file, byte, libc::F_OFD_SETLK, libc::F_UNLCK)
}

const fn type_of(kind: ByteLock) -> libc::c_int {
    match kind {
        ByteLock::Shared => libc::F_RDLCK,
        ByteLock::Exclusive => libc::F_WRLCK,
    }
}

fn change(file: BorrowedFd<'_>, byte: u64, command: libc::c_int, kind: libc::c_int) -> Result<(), Errno> {
    set(file, i64::try_from(byte).map_err(|_| Errno::OVERFLOW)?, 1, command, kind)
}

fn set(file: BorrowedFd<'_>, start: i64, length: i64, command: libc::c_int, kind: libc::c_int) -> Result<(), Errno> {
    let narrow = |value: libc::c_int| libc::c_short::try_from(value).map_err(|_| Errno::INVAL);
    let range = libc::flock {
        l_type: narrow(kind)?,
        l_whence: narrow(libc::SEEK_SET)?,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    // SAFETY: the command takes a pointer to a `flock`, which lives until the call returns.
    super::call::check(libc::c_long::from(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const range) }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn open_files_exclude_each_other_byte_by_byte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (file.reopen().unwrap(), file.reopen().unwrap());
        let far = (1 << 62) + 7;
        lock_byte(one.as_fd(), far, ByteLock::Shared).unwrap();
        assert!(try_lock_byte(two.as_fd(), far, ByteLock::Shared).unwrap());
        assert!(!try_lock_byte(two.as_fd(), far, ByteLock::Exclusive).unwrap());
        assert!(try_lock_byte(two.as_fd(), far + 1, ByteLock::Exclusive).unwrap());
        unlock_all(one.as_fd()).unwrap();
        assert!(try_lock_byte(two.as_fd(), far, ByteLock::Exclusive).unwrap());
        assert!(!try_lock_byte(one.as_fd(), far, ByteLock::Shared).unwrap());
        unlock_byte(two.as_fd(), far).unwrap();
        assert!(try_lock_byte(one.as_fd(), far, ByteLock::Shared).unwrap());
        drop(one);
        assert!(try_lock_byte(two.as_fd(), far, ByteLock::Exclusive).unwrap());
    }
}
