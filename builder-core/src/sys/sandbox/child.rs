//! PID 1 of the step: sets the mounts up, starts the command, reaps and watches.
//!
//! Nothing here allocates, locks, panics on purpose or returns: the address space is a copy of a process with threads.

use std::ffi::c_int;
use std::os::fd::RawFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::command::{COMMAND_REPORT, command};
use super::error::Stage;
use super::memory;
use super::placing::{attach, before, change_root, clear_away, make_read_only, mask};
use super::plan::Plan;
use crate::sys::call;

/// How one message of the report pipe looks: four numbers in native byte order.
pub(super) const REPORT_SIZE: usize = 16;
/// The command ended: the value is its wait status.
pub(super) const ENDED: u32 = 1;
/// A call failed: stage, error number, and which of several.
pub(super) const FAILED: u32 = 2;

/// Why the child cannot go on.
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) error: Errno,
    pub(super) index: usize,
}

/// Names the stage of a failed call.
pub(super) trait At<T> {
    fn at(self, stage: Stage, index: usize) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage, index: usize) -> Result<T, Failure> {
        self.map_err(|error| Failure { stage, error, index })
    }
}

fn report(fd: RawFd, message: [u32; 4]) {
    let mut bytes = [0u8; REPORT_SIZE];
    for (part, number) in bytes.chunks_exact_mut(4).zip(message) {
        part.copy_from_slice(&number.to_ne_bytes());
    }
    // SAFETY: the report pipe stays open until the process ends.
    let _ = rustix::io::write(unsafe { call::borrow(fd) }, &bytes);
}

fn give_up(fd: RawFd, failure: &Failure) -> ! {
    report(fd, [FAILED, failure.stage as u32, failure.error.raw_os_error() as u32, failure.index as u32]);
    call::exit(1);
}

/// The first process of the step.
pub(super) fn run(plan: &mut Plan) -> ! {
    let chroot = plan.namespaces == 0;
    let command = prepare(plan, chroot).and_then(|()| start(plan, chroot));
    match command {
        Err(failure) => give_up(plan.report, &failure),
        Ok((command, signals)) => watch(plan, command, signals, chroot),
    }
}

fn prepare(plan: &mut Plan, chroot: bool) -> Result<(), Failure> {
    for (index, &(first, last)) in plan.foreign.iter().enumerate() {
        call::close_range(first, last).at(Stage::Inherited, index)?;
    }
    // Others may not look into this process, which holds a copy of rbuild's memory.
    call::prctl(libc::PR_SET_DUMPABLE, 0).at(Stage::Session, 0)?;
    rustix::process::setsid().map(drop).at(Stage::Session, 0)?;
    call::set_name(c"rbuild-step");
    // All signals are blocked here, but one that the caller ignores (SIGCHLD) would be lost to waiting, too.
    call::default_actions();
    for &(start, end) in &plan.wipe {
        // SAFETY: the kernel put this process's strings there; the child reads neither its arguments nor environment.
        unsafe { call::wipe(start, end) };
    }
    if chroot {
        return call::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).at(Stage::Watch, 0);
    }
    if let Some(network) = plan.network {
        call::join_namespace(network, libc::CLONE_NEWNET).at(Stage::Network, 0)?;
    }
    if plan.loopback {
        call::loopback_up().at(Stage::Loopback, 0)?;
    }
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at(Stage::Propagation, 0)?;
    for (i, step) in plan.before.iter().enumerate() {
        before(&mut plan.slots, step, i)?;
    }
    clear_away(plan)?;
    change_root(plan)?;
    for i in 0..plan.attach.len() {
        attach(plan, i)?;
    }
    for (i, path) in plan.masked.iter().enumerate() {
        mask(plan.slots[plan.empty], path).at(Stage::Mask, i)?;
    }
    for (i, path) in plan.read_only.iter().enumerate() {
        make_read_only(path).at(Stage::ReadOnly, i)?;
    }
    if plan.read_only_root {
        // SAFETY: the root's descriptor is open until the process starts its loop.
        let root = unsafe { call::borrow(plan.root) };
        call::restrict(root, MountAttrFlags::MOUNT_ATTR_RDONLY, false).at(Stage::ReadOnly, usize::MAX)?;
    }
    rustix::system::sethostname(&plan.hostname).at(Stage::Hostname, 0)
}

/// Forks the command's process and returns its id and a descriptor that wakes when a child ends.
fn start(plan: &Plan, chroot: bool) -> Result<(libc::pid_t, RawFd), Failure> {
    let signals = call::child_signal_fd().at(Stage::Watch, 0)?;
    // SAFETY: this process has one thread and the child goes on with system calls only.
    match unsafe { call::fork() }.at(Stage::Fork, 0)? {
        None => match command(plan, chroot) {
            Err(failure) => give_up(COMMAND_REPORT, &failure),
            Ok(never) => match never {},
        },
        Some(pid) => Ok((pid, signals)),
    }
}

/// Reaps until the command has ended or rbuild is gone. As PID 1, its own end kills all others.
fn watch(plan: &Plan, command: libc::pid_t, signals: RawFd, chroot: bool) -> ! {
    let (life_line, report_fd, signals) = keep_three(plan.life_line, plan.report, signals);
    memory::forget();
    loop {
        // SAFETY: `keep_three` left exactly these open.
        let (line, wake) = unsafe { (call::borrow(life_line), call::borrow(signals)) };
        let mut waited = [
            rustix::event::PollFd::from_borrowed_fd(line, rustix::event::PollFlags::IN),
            rustix::event::PollFd::from_borrowed_fd(wake, rustix::event::PollFlags::IN),
        ];
        let _ = rustix::event::poll(&mut waited, None);
        let gone = !waited[0].revents().is_empty();
        let mut drained = [0u8; 1024];
        let _ = rustix::io::read(wake, &mut drained);
        let ended = reap(command);
        if let Some(status) = ended {
            if chroot {
                kill_descendants();
            }
            report(report_fd, [ENDED, status as u32, 0, 0]);
            call::exit(0);
        }
        if gone {
            if chroot {
                call::kill(command, libc::SIGKILL);
                kill_descendants();
            }
            call::exit(1);
        }
    }
}

/// Collects ended children; the status of the command if it is among them.
fn reap(command: libc::pid_t) -> Option<c_int> {
    loop {
        match call::wait_any(false) {
            Ok(Some((pid, status))) if pid == command => return Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Kills and reaps every process that descends from this one. Each that dies hands its children to this process.
fn kill_descendants() {
    loop {
        let mut text = [0u8; 4096];
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::open(c"/proc/thread-self/children", flags, Mode::empty()) else { return };
        let length = rustix::io::read(&fd, &mut text).unwrap_or(0);
        drop(fd);
        for word in text[..length].split(|&b| b == b' ') {
            let pid = word.iter().take_while(|b| b.is_ascii_digit()).fold(0, |n, b| n * 10 + i32::from(b - b'0'));
            if pid > 1 {
                call::kill(pid, libc::SIGKILL);
            }
        }
        if length == 0 && call::wait_any(false).is_err() {
            return;
        }
        let _ = call::wait_any(true);
    }
}

/// Puts three descriptors at 0 to 2 and closes everything else, mounts and the step's streams included.
fn keep_three(life_line: RawFd, report: RawFd, signals: RawFd) -> (RawFd, RawFd, RawFd) {
    // The signal descriptor goes first because it may be at one of these numbers; the others were planned above them.
    for (fd, to) in [(signals, 2), (life_line, 0), (report, 1)] {
        let _ = call::duplicate_to(fd, to, true);
    }
    let _ = call::close_from(3);
    (0, 1, 2)
}
