//! What runs between the clone and the program: PID 1 of the step, and the command's process.
//!
//! Nothing here allocates, locks, panics on purpose or returns: the address space is a copy of a process with threads.

use std::ffi::{CStr, c_int, c_long};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, RawFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::Rlimit;

use super::error::Stage;
use super::plan::{Before, Fresh, Limit, Otherwise, Plan};
use crate::sys::call;

/// How one message of the report pipe looks: four numbers in native byte order.
pub(super) const REPORT_SIZE: usize = 16;
/// The command ended: the value is its wait status.
pub(super) const ENDED: u32 = 1;
/// A call failed: stage, error number, and which of several.
pub(super) const FAILED: u32 = 2;

/// Why the child cannot go on.
struct Failure {
    stage: Stage,
    error: Errno,
    index: usize,
}

/// Names the stage of a failed call.
trait At<T> {
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
    // Others may not look into this process, which holds a copy of rbuild's memory.
    call::prctl(libc::PR_SET_DUMPABLE, 0).at(Stage::Session, 0)?;
    rustix::process::setsid().map(drop).at(Stage::Session, 0)?;
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

fn before(slots: &mut [RawFd], step: &Before, index: usize) -> Result<(), Failure> {
    match step {
        Before::Aside { slot } => {
            // SAFETY: slots hold open descriptors until the process starts its loop.
            let mount = unsafe { call::borrow(slots[*slot]) };
            move_to(mount, CWD, c"/").at(Stage::StageMount, index)
        }
        Before::Clone { from, path, to, flags } => {
            // SAFETY: as above.
            let from = unsafe { call::borrow(slots[*from]) };
            slots[*to] = clone_path(from, path, *flags).at(Stage::StageMount, index)?;
            Ok(())
        }
        Before::Fresh { kind, slot, flags, otherwise } => {
            let made = fresh(*kind, *flags);
            slots[*slot] = match (made, otherwise) {
                (Ok(fd), _) => fd,
                (Err(_), Otherwise::Skip) => -1,
                (Err(_), Otherwise::Use { slot }) if slots[*slot] >= 0 => slots[*slot],
                (Err(error), Otherwise::Fail | Otherwise::Use { .. }) => {
                    return Err(Failure { stage: Stage::FreshMount, error, index: *kind as usize });
                }
            };
            Ok(())
        }
    }
}

fn clone_path(from: BorrowedFd<'_>, path: &CStr, flags: MountAttrFlags) -> Result<RawFd, Errno> {
    let file = open_inside(from, path, ResolveFlags::empty())?;
    // SAFETY: just opened.
    let file = unsafe { call::borrow(file) };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(file, c"", clone)?.into_raw_fd();
    // SAFETY: just opened.
    call::restrict(unsafe { call::borrow(mount) }, flags, false)?;
    Ok(mount)
}

/// Opens a path whose symbolic links stay inside a root.
fn open_inside(root: BorrowedFd<'_>, path: &CStr, more: ResolveFlags) -> Result<RawFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Someone renamed a folder on the way meanwhile.
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            result => return result.map(IntoRawFd::into_raw_fd),
        }
    }
}

fn fresh(kind: Fresh, flags: MountAttrFlags) -> Result<RawFd, Errno> {
    let name = match kind {
        Fresh::Proc => c"proc",
        Fresh::Sys => c"sysfs",
        Fresh::MessageQueue => c"mqueue",
        Fresh::ControlGroup => c"cgroup2",
    };
    let context = rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map(IntoRawFd::into_raw_fd)
}

fn move_to(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.is_empty());
    rustix::mount::move_mount(mount, c"", directory, path, flags)
}

fn change_root(plan: &Plan) -> Result<(), Failure> {
    // SAFETY: the root's descriptor is open until the process starts its loop.
    let root = unsafe { call::borrow(plan.root) };
    move_to(root, CWD, c"/").at(Stage::MoveRoot, 0)?;
    rustix::process::fchdir(root).at(Stage::PivotRoot, 0)?;
    // The old root ends up on top of the new one, where the working directory is, and goes with all it carries.
    rustix::process::pivot_root(c".", c".").at(Stage::PivotRoot, 0)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).at(Stage::DetachOldRoot, 0)?;
    rustix::process::chdir(c"/").at(Stage::PivotRoot, 0)
}

fn attach(plan: &Plan, index: usize) -> Result<(), Failure> {
    let step = &plan.attach[index];
    let slot = plan.slots[step.slot];
    if slot < 0 {
        return Ok(());
    }
    let target = open_inside(CWD, &step.target, ResolveFlags::NO_SYMLINKS).at(Stage::MountPoint, index)?;
    // SAFETY: the first was just opened, the second is open until the process starts its loop.
    let (target_fd, mount) = unsafe { (call::borrow(target), call::borrow(slot)) };
    move_to(mount, target_fd, c"").at(Stage::Attach, index)?;
    call::close(target);
    Ok(())
}

/// Hides a kernel file behind `/dev/null` and a kernel folder behind an empty one.
fn mask(empty: RawFd, path: &CStr) -> Result<(), Errno> {
    let target = match open_inside(CWD, path, ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result?,
    };
    // SAFETY: just opened.
    let target_fd = unsafe { call::borrow(target) };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(target_fd)?.st_mode);
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let cover = if kind == FileType::Directory {
        // SAFETY: the slot is open until the process starts its loop.
        let empty = unsafe { call::borrow(empty) };
        match rustix::mount::open_tree(empty, c"", clone | OpenTreeFlags::AT_EMPTY_PATH) {
            // Not attached yet, so this is the first folder: the mount itself goes here.
            Err(Errno::INVAL) => return move_to(empty, target_fd, c""),
            result => result?,
        }
    } else {
        rustix::mount::open_tree(CWD, c"/dev/null", clone)?
    };
    move_to(cover.as_fd(), target_fd, c"")?;
    call::close(target);
    Ok(())
}

/// Puts a read-only copy of a kernel folder over itself.
fn make_read_only(path: &CStr) -> Result<(), Errno> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let copy = match rustix::mount::open_tree(CWD, path, clone) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    call::restrict(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
    move_to(copy.as_fd(), CWD, path)
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

/// Where the command's process keeps the report pipe.
const COMMAND_REPORT: RawFd = 3;

enum Never {}

/// The command's process up to exec.
fn command(plan: &Plan, chroot: bool) -> Result<Never, Failure> {
    // The report pipe first, so that every later failure can be told.
    if call::duplicate_to(plan.report, COMMAND_REPORT, true).is_err() {
        call::exit(1);
    }
    rustix::process::setsid().map(drop).at(Stage::Session, 0)?;
    if chroot {
        // SAFETY: the root's descriptor was inherited.
        rustix::process::fchdir(unsafe { call::borrow(plan.root) }).at(Stage::Chroot, 0)?;
        rustix::process::chroot(c".").at(Stage::Chroot, 0)?;
    }
    for (i, &stream) in plan.streams.iter().enumerate() {
        call::duplicate_to(stream, i as RawFd, false).at(Stage::StandardStreams, i)?;
    }
    call::close_from(COMMAND_REPORT + 1).at(Stage::StandardStreams, 3)?;
    if plan.terminal {
        // SAFETY: the terminal was just put at 0.
        rustix::process::ioctl_tiocsctty(unsafe { call::borrow(0) }).at(Stage::Terminal, 0)?;
    }
    call::default_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for (i, limit) in plan.limits.iter().enumerate() {
        set_limit(limit).at(Stage::Limits, i)?;
    }
    own_streams(plan);
    let entered = rustix::process::chdir(plan.working_directory.as_c_str());
    if plan.capabilities.is_some() {
        for program in &plan.programs {
            check_program(program).at(Stage::CheckProgram, 0)?;
        }
    }
    become_user(plan)?;
    if entered.is_err() {
        // A folder on a network disk may let the user in where it keeps root out.
        rustix::process::chdir(plan.working_directory.as_c_str()).at(Stage::WorkingDirectory, 0)?;
    }
    execute(plan)
}

fn set_limit(limit: &Limit) -> Result<(), Errno> {
    let Limit { limit, current_hard } = limit;
    let wanted = Rlimit { current: limit.soft, maximum: limit.hard };
    match rustix::process::setrlimit(limit.resource, wanted) {
        // Raising needs a privilege that a container's root may lack; then the step gets as much as there is.
        Err(Errno::PERM) => {
            let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
                (Some(a), Some(b)) => Some(if a < b { a } else { b }),
                (a, b) => a.or(b),
            };
            let maximum = least(limit.hard, *current_hard);
            rustix::process::setrlimit(limit.resource, Rlimit { current: least(limit.soft, maximum), maximum })
        }
        result => result,
    }
}

/// Gives pipes and terminals to the user, who may otherwise not open `/dev/stdout`.
fn own_streams(plan: &Plan) {
    if plan.uid == 0 {
        return;
    }
    for fd in 0..3 {
        // SAFETY: the three streams are open.
        let stream = unsafe { call::borrow(fd) };
        let kind = rustix::fs::fstat(stream).map(|status| FileType::from_raw_mode(status.st_mode));
        let terminal = plan.terminal && kind == Ok(FileType::CharacterDevice);
        if kind == Ok(FileType::Fifo) || terminal {
            let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(plan.uid)), None);
        }
    }
}

/// The most interpreters the kernel follows from script to script.
const INTERPRETERS: usize = 5;

/// Refuses a program that is reached through a link like `/proc/self/exe`, which would be rbuild itself.
fn check_program(program: &CStr) -> Result<(), Errno> {
    let mut line = [0u8; 256];
    let mut name;
    let mut path = program;
    for _ in 0..=INTERPRETERS {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::LOOP) => return Err(Errno::LOOP),
            Err(_) => return Ok(()),
            Ok(file) => file,
        };
        let length = rustix::io::read(&file, &mut line).unwrap_or(0);
        drop(file);
        let Some(interpreter) = line[..length].strip_prefix(b"#!") else { return Ok(()) };
        let blank = |b: &u8| matches!(b, b' ' | b'\t');
        let start = interpreter.iter().position(|b| !blank(b)).unwrap_or(interpreter.len());
        let interpreter = &interpreter[start..];
        let end = interpreter.iter().position(|b| blank(b) || matches!(b, b'\n' | 0)).unwrap_or(interpreter.len());
        name = [0; 256];
        name[..end].copy_from_slice(&interpreter[..end]);
        let Ok(next) = CStr::from_bytes_until_nul(&name) else { return Ok(()) };
        if next.is_empty() {
            return Ok(());
        }
        path = next;
    }
    Ok(())
}

fn become_user(plan: &Plan) -> Result<(), Failure> {
    if let Some(filter) = &plan.filter {
        call::install_filter(filter).at(Stage::Filter, 0)?;
    }
    if let Some(capabilities) = plan.capabilities {
        call::limit_capabilities(capabilities).at(Stage::Capabilities, 0)?;
    }
    call::set_groups(&plan.groups).at(Stage::Ids, 0)?;
    call::set_gid(plan.gid).at(Stage::Ids, 1)?;
    // Before the user id, which takes the right to do so away.
    call::set_capabilities(plan.capabilities.unwrap_or(u64::MAX)).at(Stage::Capabilities, 1)?;
    call::set_uid(plan.uid).at(Stage::Ids, 2)
}

fn execute(plan: &Plan) -> Result<Never, Failure> {
    let (Some(arguments), Some(environment)) = (&plan.arguments, &plan.environment) else {
        return Err(Failure { stage: Stage::Execute, error: Errno::INVAL, index: 0 });
    };
    let mut failure = Failure { stage: Stage::Execute, error: Errno::NOENT, index: 0 };
    for program in &plan.programs {
        let error = call::execute(program, arguments, environment);
        match error {
            Errno::NOENT | Errno::NOTDIR => {
                // The file is there, so what is missing is its interpreter or loader.
                if rustix::fs::accessat(CWD, program.as_c_str(), rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok() {
                    failure = Failure { stage: Stage::Execute, error, index: 1 };
                }
            }
            Errno::ACCESS | Errno::PERM => failure = Failure { stage: Stage::Execute, error, index: 1 },
            error => return Err(Failure { stage: Stage::Execute, error, index: 1 }),
        }
    }
    Err(failure)
}

/// Keeps the types of wait statuses and error numbers honest.
const _: () = assert!(size_of::<c_int>() == 4 && size_of::<c_long>() >= 4);
