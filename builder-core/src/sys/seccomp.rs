//! System call filters, and listening to what they hold back.
//!
//! A filter may answer a call with "ask the listener": the caller then waits until whoever holds the listener's
//! descriptor says what becomes of the call. Here it is always to go on, so nothing is decided with arguments that
//! another thread of the caller could change meanwhile.
//!
//! The rules of [`call`](super::call) hold: none of these allocates or locks.

use std::ffi::{c_long, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::call::check;

/// Installs a filter without giving up set-user-id programs; needs CAP_SYS_ADMIN.
pub(super) fn install(program: &[libc::sock_filter]) -> Result<(), Errno> {
    // Without the flag, kernels before 5.16 slow every filtered process down for a class of attacks that the
    // payload could only make on itself. 4.17.
    match set_filter(program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        Err(Errno::INVAL) => set_filter(program, 0).map(drop),
        result => result.map(drop),
    }
}

/// Installs a filter that has a listener, and gives that: close-on-exec. 5.0.
///
/// The kernel allows one listener to all filters of a process together, and answers EBUSY to a second.
pub(super) fn install_with_listener(program: &[libc::sock_filter]) -> Result<OwnedFd, Errno> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // A caller that is waited for is then not disturbed by signals, which few programs expect from the calls held
    // back. 5.19.
    let listener = match set_filter(program, flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => set_filter(program, flags)?,
        result => result?,
    };
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

fn set_filter(program: &[libc::sock_filter], flags: c_ulong) -> Result<c_long, Errno> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which lives until the call returns, and does not change it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
}

/// Takes one call that waits, and gives its number; waits for one. ENOENT where the caller went away just now.
pub(super) fn receive(listener: BorrowedFd<'_>) -> Result<u64, Errno> {
    // SAFETY: all zero is a notice, and the kernel asks for one of all zeroes.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one notice.
    check(c_long::from(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) }))?;
    Ok(notice.id)
}

/// Lets a call that waits go on as if there were no filter. 5.5. ENOENT where the caller is gone.
pub(super) fn go_on(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the kernel reads one answer.
    check(c_long::from(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) }))?;
    Ok(())
}
