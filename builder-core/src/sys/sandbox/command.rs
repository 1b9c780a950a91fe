//! The command's process between fork and exec.
//!
//! The rules of [`child`](super::child) hold: system calls only.

use std::ffi::CStr;
use std::os::fd::{AsFd, RawFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::Rlimit;

use super::child::{At, Failure};
use super::error::Stage;
use super::gate;
use super::plan::{Limit, Plan};
use crate::sys::{call, capabilities, seccomp};

/// Where the command's process keeps the report pipe.
pub(super) const COMMAND_REPORT: RawFd = 3;
/// Where it keeps its end of the gate, if there is one.
const COMMAND_GATE: RawFd = 4;

/// What a function that only returns failures returns otherwise.
pub(super) enum Never {}

/// The command's process up to exec.
pub(super) fn command(plan: &Plan, chroot: bool) -> Result<Never, Failure> {
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
    let mut last = COMMAND_REPORT;
    if let Some((gate, _)) = &plan.gate {
        call::duplicate_to(*gate, COMMAND_GATE, true).at(Stage::Gate, 0)?;
        last = COMMAND_GATE;
    }
    call::close_from(last + 1).at(Stage::StandardStreams, 3)?;
    if plan.terminal {
        // SAFETY: the terminal was just put at 0.
        rustix::process::ioctl_tiocsctty(unsafe { call::borrow(0) }).at(Stage::Terminal, 0)?;
    }
    // The actions are the default ones since the first process.
    call::unblock_signals();
    call::new_session_keyring();
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
    install_filter(plan)?;
    if let Some(wanted) = plan.capabilities {
        capabilities::limit_capabilities(wanted).at(Stage::Capabilities, 0)?;
    }
    call::set_groups(&plan.groups).at(Stage::Ids, 0)?;
    call::set_gid(plan.gid).at(Stage::Ids, 1)?;
    // Before the user id, which takes the right to do so away.
    capabilities::set_capabilities(plan.capabilities.unwrap_or(u64::MAX)).at(Stage::Capabilities, 1)?;
    call::set_uid(plan.uid).at(Stage::Ids, 2)
}

fn install_filter(plan: &Plan) -> Result<(), Failure> {
    if let Some((_, filter)) = &plan.gate {
        // SAFETY: it was put there, and stays open until exec.
        let channel = unsafe { call::borrow(COMMAND_GATE) };
        match seccomp::install_with_listener(filter) {
            Ok(listener) => return gate::hand_over(channel, listener.as_fd()).at(Stage::Gate, 0),
            // There is a listener already, or the kernel has none: so the network comes first.
            Err(_) => gate::wait(channel).at(Stage::Gate, 1)?,
        }
    }
    let Some(filter) = &plan.filter else { return Ok(()) };
    match seccomp::install(filter) {
        // A container's root may not filter without giving up set-user-id programs; the container has its own filter.
        Err(Errno::ACCESS) if plan.namespaces == 0 => Ok(()),
        result => result.at(Stage::Filter, 0),
    }
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
