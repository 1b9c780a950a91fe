//! A step that runs.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};

use super::child::{self, ENDED, FAILED, REPORT_SIZE};
use super::error::{SandboxError, Stage};
use super::gate::Gate;
use super::plan::{Plan, display};
use super::{SandboxSpec, Stdio};
use crate::sys::{call, pty};

/// How the command of a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(u8),
    /// This signal ended it; 9 also when the whole step was killed.
    Signal(i32),
}

impl Exit {
    /// Whether the status is 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The status as a shell shows it: 128 and the number for a signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        }
    }
}

/// A step that runs. Dropping it kills every process of the step and waits until they are gone.
#[derive(Debug)]
pub struct Running {
    plan: Plan,
    /// Names PID 1 of the step.
    process: OwnedFd,
    report: OwnedFd,
    /// Closing it makes PID 1 end the step; the only thing that reaches all processes of a step without namespaces.
    life_line: Mutex<Option<OwnedFd>>,
    terminal: Option<OwnedFd>,
    gate: Option<Gate>,
    program: OsString,
    reaped: Mutex<bool>,
    peak_bytes: AtomicU64,
}

/// Starts a step.
///
/// Returns as soon as its first process exists; failures of that process come from [`Running::wait`].
///
/// # Errors
/// When something the step needs cannot be made.
pub fn spawn(spec: SandboxSpec, stdio: Stdio) -> Result<Running, SandboxError> {
    let program = spec.process.arguments.first().cloned().unwrap_or_default();
    let (mut plan, ends) = Plan::new(spec)?;
    let terminal = set_streams(&mut plan, stdio, ends.terminals.as_ref())?;
    let pipe =
        |what| pipe_with(PipeFlags::CLOEXEC).map_err(|error| SandboxError::Prepare { what, source: error.into() });
    let (report, report_end) = pipe("the report pipe")?;
    let (life_line_end, life_line) = pipe("the life line")?;
    plan.report = plan.own(report_end)?;
    plan.life_line = plan.own(life_line_end)?;
    plan.note_foreign();

    // A signal handler of the caller must not run in the child.
    let mask = call::block_signals();
    // SAFETY: the child goes on in `child::run`, which makes system calls only and never returns.
    let cloned = unsafe { call::clone(plan.namespaces) };
    let process = match cloned {
        Ok(call::Clone::Child) => child::run(&mut plan),
        Ok(call::Clone::Parent { pidfd }) => Ok(pidfd),
        Err(error) => Err(SandboxError::Clone { source: error.into() }),
    };
    call::restore_signals(&mask);
    // The child has its copies; ours would keep the mounts and pipes alive.
    plan.owned.clear();
    Ok(Running {
        plan,
        process: process?,
        report,
        life_line: Mutex::new(Some(life_line)),
        terminal,
        gate: ends.gate,
        program,
        reaped: Mutex::new(false),
        peak_bytes: AtomicU64::new(0),
    })
}

/// Plans the three streams and returns the caller's end of a terminal.
fn set_streams(plan: &mut Plan, stdio: Stdio, terminals: Option<&OwnedFd>) -> Result<Option<OwnedFd>, SandboxError> {
    match stdio {
        Stdio::Descriptors { stdin, stdout, stderr } => {
            let stdin = match stdin {
                Some(stdin) => stdin,
                None => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|error| SandboxError::Prepare { what: "standard input", source: error.into() })?,
            };
            plan.streams = [plan.own(stdin)?, plan.own(stdout)?, plan.own(stderr)?];
            Ok(None)
        }
        Stdio::Terminal { rows, columns } => {
            let pair = pty::open(terminals.map(AsFd::as_fd), pty::Size { rows, columns })
                .map_err(|source| SandboxError::Prepare { what: "a terminal", source })?;
            plan.streams = [plan.own(pair.inner)?; 3];
            plan.terminal = true;
            Ok(Some(pair.outer))
        }
    }
}

impl Running {
    /// Waits until every process of the step is gone and tells how the command ended.
    ///
    /// # Errors
    /// When the step could not be set up or its program not be executed.
    pub fn wait(&self) -> Result<Exit, SandboxError> {
        let mut message = [0u8; REPORT_SIZE];
        let mut filled = 0;
        while filled < REPORT_SIZE {
            match rustix::io::read(&self.report, &mut message[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(SandboxError::Wait { source: error.into() }),
            }
        }
        self.reap()?;
        if filled < REPORT_SIZE {
            return Ok(Exit::Signal(libc::SIGKILL));
        }
        let mut numbers = message.chunks_exact(4).map(|part| u32::from_ne_bytes([part[0], part[1], part[2], part[3]]));
        let mut next = || numbers.next().unwrap_or_default();
        match (next(), next(), next(), next()) {
            (ENDED, status, _, _) if libc::WIFSIGNALED(status as i32) => {
                Ok(Exit::Signal(libc::WTERMSIG(status as i32)))
            }
            (ENDED, status, _, _) => Ok(Exit::Code(libc::WEXITSTATUS(status as i32) as u8)),
            (FAILED, stage, error, index) => Err(self.failure(stage, error, index as usize)),
            _ => Err(SandboxError::Wait { source: io::Error::from(io::ErrorKind::InvalidData) }),
        }
    }

    /// Kills every process of the step. [`wait`](Self::wait) then returns soon.
    pub fn kill(&self) {
        drop(self.life_line.lock().unwrap_or_else(PoisonError::into_inner).take());
        if self.plan.namespaces != 0 {
            let _ = pidfd_send_signal(&self.process, Signal::KILL);
        }
    }

    /// Names the first process of the step; readable when it is gone.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// The most memory that a single process of the step had, bytes; known once [`wait`](Self::wait) is over. What
    /// rbuild itself had when the step began counts as the first process's.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// The other end of the step's terminal, once.
    #[must_use]
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Where the step waits for its network ([`NetworkMode::Gated`](super::NetworkMode::Gated)), once. Watch it as long
    /// as the step runs: without anybody there, the step can make no socket.
    #[must_use]
    pub fn take_gate(&mut self) -> Option<Gate> {
        self.gate.take()
    }

    /// Waits for PID 1. The kernel lets it go only after all other processes of its namespace.
    fn reap(&self) -> Result<(), SandboxError> {
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*reaped {
            match call::wait_for(self.process.as_fd()) {
                Ok(peak_kib) => {
                    self.peak_bytes.store(peak_kib * 1024, Ordering::Relaxed);
                    *reaped = true;
                }
                // The caller's process ignores SIGCHLD or someone else waited: it is gone all the same.
                Err(Errno::CHILD) => *reaped = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(SandboxError::Wait { source: error.into() }),
            }
        }
        Ok(())
    }

    fn failure(&self, stage: u32, error: u32, index: usize) -> SandboxError {
        let source = io::Error::from_raw_os_error(error as i32);
        let Some(stage) = Stage::from_number(stage) else { return SandboxError::Wait { source } };
        let program = || self.program.to_string_lossy().into_owned();
        let path = |paths: &[std::ffi::CString]| paths.get(index).map(display).unwrap_or_default();
        let subject = match stage {
            Stage::Execute if index == 0 => {
                let searched = !program().contains('/');
                return SandboxError::ProgramNotFound { program: program(), searched };
            }
            Stage::Execute => return SandboxError::ProgramNotExecutable { program: program(), source },
            Stage::CheckProgram => return SandboxError::ProgramNotExecutable { program: program(), source },
            Stage::WorkingDirectory => {
                let path = OsString::from_vec(self.plan.working_directory.as_bytes().to_vec()).into();
                return SandboxError::WorkingDirectory { path, source };
            }
            Stage::MountPoint | Stage::Attach => {
                self.plan.attach.get(index).map(|attach| display(&attach.target)).unwrap_or_default()
            }
            Stage::Mask => path(&self.plan.masked),
            Stage::ReadOnly if index == u32::MAX as usize => "the root file system".into(),
            Stage::ReadOnly => path(&self.plan.read_only),
            Stage::FreshMount => ["proc", "sysfs", "mqueue", "cgroup2"].get(index).map_or("", |name| name).into(),
            Stage::Hostname => format!("`{}`", String::from_utf8_lossy(&self.plan.hostname)),
            Stage::Ids => format!("`{}:{}`", self.plan.uid, self.plan.gid),
            _ => String::new(),
        };
        SandboxError::Setup { stage, subject, source }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.reap();
    }
}

/// A step can be waited for on one thread and killed from another.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Running>();
};
