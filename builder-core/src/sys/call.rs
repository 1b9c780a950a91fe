//! One wrapper per kernel call that rustix lacks or makes harder to use between fork and exec.
//!
//! None of these allocates, locks or reads anything but its arguments, so all may be used in a forked child.

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

/// Turns a call's result into its value or the error number.
pub(super) fn check(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: the location of `errno` is valid for the calling thread, also in a forked child.
    Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
}

/// What `mount_setattr(2)` takes.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds restrictions to a mount; with `recursive` to everything mounted below it too. Linux 5.12.
pub(super) fn restrict(mount: BorrowedFd<'_>, flags: MountAttrFlags, recursive: bool) -> Result<(), Errno> {
    if flags.is_empty() {
        return Ok(());
    }
    let attributes = MountAttributes { set: u64::from(flags.bits()), clear: 0, propagation: 0, user_namespace: 0 };
    let at = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant and the structure is as large as said.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })?;
    Ok(())
}

/// Gives the calling thread a mount namespace, root and working directory of its own.
pub(super) fn unshare_thread_mounts() -> Result<(), Errno> {
    unshare(libc::CLONE_NEWNS | libc::CLONE_FS)
}

/// `unshare(2)`.
pub(super) fn unshare(flags: c_int) -> Result<(), Errno> {
    // SAFETY: takes an integer; descriptor tables are never unshared by this crate.
    check(c_long::from(unsafe { libc::unshare(flags) }))?;
    Ok(())
}

/// Who a clone is, seen from both sides.
pub(super) enum Clone {
    /// This is the new process.
    Child,
    /// This is the old one.
    Parent {
        /// A descriptor that names it.
        pidfd: OwnedFd,
    },
}

/// Forks into the given new namespaces.
///
/// # Safety
/// In a process with other threads, the child may only do what is allowed in a signal handler: no allocation, no locks.
pub(super) unsafe fn clone(namespaces: c_int) -> Result<Clone, Errno> {
    let mut pidfd: c_int = -1;
    let flags = (namespaces | libc::CLONE_PIDFD | libc::SIGCHLD) as c_ulong;
    // SAFETY: without CLONE_VM the child has its own copy of this stack, and the kernel writes one int to `pidfd`
    // (the third argument on every architecture). The rest is the caller's promise.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    // SAFETY: the kernel just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Clone::Parent { pidfd })
}

/// A plain fork; see [`clone`] for the rules.
///
/// # Safety
/// As for [`clone`]. The caller's libc state (such as cached ids) is stale in the child.
pub(super) unsafe fn fork() -> Result<Option<libc::pid_t>, Errno> {
    // SAFETY: the caller's promise.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD as c_ulong, 0usize, 0usize, 0usize, 0usize) })?;
    Ok((pid != 0).then_some(pid as libc::pid_t))
}

/// A fork with everything libc does around one, for a process with one thread; `None` in the child.
///
/// # Safety
/// This must be the process's only thread.
pub(super) unsafe fn fork_single_threaded() -> Result<Option<libc::pid_t>, Errno> {
    // SAFETY: the caller's promise.
    let pid = check(c_long::from(unsafe { libc::fork() }))?;
    Ok((pid != 0).then_some(pid as libc::pid_t))
}

/// The highest number that a descriptor can have.
pub(super) const LAST_DESCRIPTOR: RawFd = RawFd::MAX;

/// Closes every descriptor from `first` on. Linux 5.9.
pub(super) fn close_from(first: RawFd) -> Result<(), Errno> {
    close_range(first, LAST_DESCRIPTOR)
}

/// Closes every descriptor from `first` to `last`. Linux 5.9.
pub(super) fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: used only in a child that never returns to Rust code owning descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Closes one descriptor by number.
pub(super) fn close(fd: RawFd) {
    // SAFETY: used only in a child that never returns to Rust code owning descriptors.
    unsafe { libc::close(fd) };
}

/// `dup3(2)`; the copy stays open over exec unless `close_on_exec`.
pub(super) fn duplicate_to(fd: RawFd, to: RawFd, close_on_exec: bool) -> Result<(), Errno> {
    if fd == to {
        // SAFETY: takes integers.
        check(c_long::from(unsafe {
            libc::fcntl(fd, libc::F_SETFD, if close_on_exec { libc::FD_CLOEXEC } else { 0 })
        }))?;
        return Ok(());
    }
    // SAFETY: used only in a child that never returns to Rust code owning descriptors.
    check(c_long::from(unsafe { libc::dup3(fd, to, if close_on_exec { libc::O_CLOEXEC } else { 0 }) }))?;
    Ok(())
}

/// Borrows a descriptor by number.
///
/// # Safety
/// The descriptor must be open for as long as the borrow lives.
pub(super) unsafe fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller's promise.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Gives every signal its default action.
pub(super) fn default_actions() {
    // SAFETY: plain structures on the stack; numbers that have no changeable action are refused and ignored.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Blocks no signal.
pub(super) fn unblock_signals() {
    // SAFETY: plain structures on the stack.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Blocks every signal of the calling thread and returns the mask from before.
pub(super) fn block_signals() -> libc::sigset_t {
    // SAFETY: plain structures on the stack.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

/// Sets the calling thread's signal mask again.
pub(super) fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the mask came from `block_signals`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// A descriptor that is readable when a child has ended. The signal must be blocked.
pub(super) fn child_signal_fd() -> Result<RawFd, Errno> {
    // SAFETY: a plain structure on the stack.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    Ok(check(c_long::from(fd))? as RawFd)
}

/// `prctl(2)` with integer arguments.
pub(super) fn prctl(option: c_int, argument: c_ulong) -> Result<(), Errno> {
    // SAFETY: only options with one integer argument are used by the callers.
    check(c_long::from(unsafe { libc::prctl(option, argument, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) }))?;
    Ok(())
}

/// A NULL-terminated list of C strings for exec.
#[derive(Debug)]
pub(super) struct Strings {
    /// Points into `_owner`.
    pointers: Vec<*const c_char>,
    _owner: Vec<std::ffi::CString>,
}

// SAFETY: the pointers point to heap blocks that the structure itself owns and nobody changes.
unsafe impl Send for Strings {}
// SAFETY: as above.
unsafe impl Sync for Strings {}

impl Strings {
    /// Lays the list out.
    pub(super) fn new(strings: Vec<std::ffi::CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _owner: strings }
    }
}

/// Replaces this process by a program; returns only the reason why not.
pub(super) fn execute(program: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    // SAFETY: both lists are NULL-terminated and own what they point to.
    let result = unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    check(c_long::from(result)).err().unwrap_or(Errno::INVAL)
}

/// Ends this process without running any exit handler.
pub(super) fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: ends the process. The raw call needs no symbol that the dynamic loader may not have bound yet.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// Sets all group ids of the process (of its only thread).
pub(super) fn set_groups(groups: &[libc::gid_t]) -> Result<(), Errno> {
    // SAFETY: the slice is valid; the raw call avoids libc's broadcast to threads that do not exist in this child.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Sets real, effective and saved group id.
pub(super) fn set_gid(gid: libc::gid_t) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// Sets real, effective and saved user id.
pub(super) fn set_uid(uid: libc::uid_t) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// `setns(2)`.
pub(super) fn join_namespace(fd: RawFd, kind: c_int) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(c_long::from(unsafe { libc::setns(fd, kind) }))?;
    Ok(())
}

/// Brings the loopback interface of the current network namespace up.
pub(super) fn loopback_up() -> Result<(), Errno> {
    // SAFETY: the request is a plain structure large enough for both calls.
    unsafe {
        let socket = check(c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        let result = check(c_long::from(libc::ioctl(socket as c_int, libc::SIOCSIFFLAGS, &raw const request)));
        libc::close(socket as c_int);
        result?;
    }
    Ok(())
}

/// Waits for any child; `None` when none has ended yet. The status is as `wait(2)` gives it.
pub(super) fn wait_any(block: bool) -> Result<Option<(libc::pid_t, c_int)>, Errno> {
    let mut status: c_int = 0;
    let flags = if block { libc::__WALL } else { libc::WNOHANG | libc::__WALL };
    // SAFETY: the status is one int.
    let pid = check(unsafe { libc::syscall(libc::SYS_wait4, -1, &raw mut status, flags, 0usize) })?;
    Ok((pid != 0).then_some((pid as libc::pid_t, status)))
}

/// Waits for the end of the child that a descriptor names; the most memory, in KiB, that it or one of the processes that
/// it waited for ever had.
pub(super) fn wait_for(process: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let number = process.as_raw_fd();
    // SAFETY: the kernel fills in the usage; it takes no address for details of the end as "not wanted".
    check(unsafe {
        libc::syscall(libc::SYS_waitid, libc::P_PIDFD, number, 0usize, libc::WEXITED, usage.as_mut_ptr())
    })?;
    // SAFETY: all zero is a usage, and so is what the kernel wrote over it.
    let usage = unsafe { usage.assume_init() };
    Ok(u64::try_from(usage.ru_maxrss).unwrap_or(0))
}

/// `kill(2)`.
pub(super) fn kill(pid: libc::pid_t, signal: c_int) {
    // SAFETY: takes integers; a process that is gone is not an error to the callers.
    unsafe { libc::syscall(libc::SYS_kill, pid, signal) };
}

/// An address in the calling thread's own data.
pub(super) fn thread_data() -> usize {
    // SAFETY: gives the address of the thread's error number.
    unsafe { libc::__errno_location() }.addr()
}

/// Turns private anonymous memory into zeroes that take no space.
///
/// # Safety
/// Nothing may use the memory any more.
pub(super) unsafe fn discard(start: usize, end: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_madvise, start, end - start, libc::MADV_DONTNEED) };
}

/// Leaves the caller's session keyring for a new, empty one.
pub(super) fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: no name is given. Kernels without keys have nothing to leave.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0usize) };
}

/// Names the process as tools show it.
pub(super) fn set_name(name: &CStr) {
    // SAFETY: the name is NUL-terminated.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Overwrites this process's copy of its command line and environment, which others can read under `/proc`.
///
/// # Safety
/// The range must be writable memory of this process that nothing reads any more.
pub(super) unsafe fn wipe(start: usize, end: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::write_bytes(start as *mut u8, 0, end.saturating_sub(start)) };
}
