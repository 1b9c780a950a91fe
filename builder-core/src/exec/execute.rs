//! A command while it runs: its output is passed on, its memory watched, its network connected when it wants one, and it is
//! ended when the build is cancelled.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::advice;
use super::build::Build;
use super::command_output::CommandOutput;
use crate::error::{BuildError, During, ErrorKind};
use crate::progress::{Event, StepId, Stream};
use crate::sys::sandbox::{self, AtGate, Exit, Gate, Running, SandboxError, SandboxSpec, Stdio};
use crate::sys::usage::MemoryWatch;

/// How a command that was started ended.
pub(crate) enum Executed {
    /// Well.
    Done {
        /// The most memory that its processes had, bytes.
        peak_bytes: u64,
    },
    /// It wanted the private network, which could not be connected: it is to be started again with the host's.
    NetworkLost,
}

/// How many of a command's last lines an error shows.
const LAST_LINES: usize = 20;

/// How often a running command looks whether the build was cancelled.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A command that ends before is not asked for its memory while it runs.
const MEMORY_WATCHED_AFTER: Duration = Duration::from_millis(20);

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started, fails, or the build is cancelled.
pub(crate) fn execute(build: &Build<'_>, id: StepId, spec: SandboxSpec) -> Result<Executed, BuildError> {
    let action = || "start the command".to_owned();
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (stdout, stdout_end) = pipe().during(action)?;
    let (stderr, stderr_end) = pipe().during(action)?;
    let stdio = Stdio::Descriptors { stdin: None, stdout: stdout_end, stderr: stderr_end };
    let mut last = VecDeque::new();
    let result = sandbox::spawn(spec, stdio).and_then(|mut running| {
        let gate = running.take_gate();
        let attended = Attended { build, running: &running, network_lost: AtomicBool::new(false) };
        let peak_bytes = attended.to_its_end(CommandOutput::new(stdout, stderr), gate, |stream, line| {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(String::from_utf8_lossy(&line).into_owned());
            build.events.event(Event::Output { step: id, stream, line });
        });
        let exit = running.wait()?;
        Ok((exit, attended.network_lost.into_inner(), peak_bytes.max(running.peak_bytes())))
    });
    build.check_cancelled()?;
    match result {
        Ok((_, true, _)) => Ok(Executed::NetworkLost),
        Ok((exit, false, peak_bytes)) if exit.success() => Ok(Executed::Done { peak_bytes }),
        Ok((exit, ..)) => {
            let signal = match exit {
                Exit::Signal(signal) => Some(signal),
                Exit::Code(_) => None,
            };
            let (code, output) = (i32::from(exit.code()), last.into());
            Err(ErrorKind::Command { code, signal, output, help: advice::of_end(code, signal) }.into())
        }
        Err(error) => Err(start_failed(error, last.into())),
    }
}

/// A command while it runs.
struct Attended<'a, 'o> {
    build: &'a Build<'o>,
    running: &'a Running,
    network_lost: AtomicBool,
}

impl Attended<'_, '_> {
    /// Attends until the step's processes are gone and all output was read; gives the most memory that was seen, bytes.
    fn to_its_end(
        &self,
        mut output: CommandOutput,
        mut gate: Option<Gate>,
        mut take: impl FnMut(Stream, Vec<u8>),
    ) -> u64 {
        let mut memory = MemoryWatch::after(MEMORY_WATCHED_AFTER);
        let mut ended = false;
        std::thread::scope(|scope| {
            while !ended || output.pipes().next().is_some() {
                let ready = Ready::wait((!ended).then(|| self.running.pidfd()), gate.as_ref(), &output);
                for stream in ready.streams.into_iter().flatten() {
                    output.read(stream, &mut take);
                }
                if ready.ended || ended {
                    (ended, gate) = (true, None);
                    continue;
                }
                if ready.gate
                    && let Some(waiting) = self.look_at(&mut gate)
                {
                    scope.spawn(move || self.let_through(waiting));
                }
                memory.look(self.running.pidfd());
                if self.build.check_cancelled().is_err() {
                    self.running.kill();
                }
            }
        });
        memory.peak_bytes()
    }

    /// Looks at the gate, and takes it where somebody waits there.
    fn look_at(&self, gate: &mut Option<Gate>) -> Option<Gate> {
        match gate.as_mut()?.look() {
            AtGate::Nobody => None,
            AtGate::Closed => {
                *gate = None;
                None
            }
            AtGate::Waiting { before_start } => {
                if before_start {
                    let why = "its calls for sockets can't be held back here";
                    let text = format!("network: the command waits for it before it starts, because {why}");
                    self.build.events.event(Event::Note(text));
                }
                gate.take()
            }
        }
    }

    /// Connects the network, and lets the command use it. Where there is none, the command is ended.
    fn let_through(&self, gate: Gate) {
        if self.build.connect_network() {
            gate.open(self.running.pidfd());
        } else {
            self.network_lost.store(true, Ordering::Relaxed);
            self.running.kill();
            gate.hold(self.running.pidfd());
        }
    }
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    ended: bool,
    gate: bool,
    streams: [Option<Stream>; 2],
}

impl Ready {
    /// Waits a little for the end of the step's first process, for somebody at the gate, and for output.
    fn wait(process: Option<BorrowedFd<'_>>, gate: Option<&Gate>, output: &CommandOutput) -> Self {
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds: Vec<PollFd<'_>> = process.into_iter().chain(gate.map(AsFd::as_fd)).map(watch).collect();
        let first_pipe = fds.len();
        fds.extend(output.pipes().map(|(_, pipe)| watch(pipe)));
        if !matches!(poll(&mut fds, Some(&LOOK_EVERY)), Ok(count) if count > 0) {
            return Self::default();
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (others, pipes) = fds.split_at(first_pipe);
        let mut others = others.iter().map(is_ready);
        let mut ready = Self {
            ended: process.is_some() && others.next().unwrap_or(false),
            gate: gate.is_some() && others.next().unwrap_or(false),
            streams: [None; 2],
        };
        for (place, ((stream, _), pipe)) in ready.streams.iter_mut().zip(output.pipes().zip(pipes)) {
            *place = is_ready(pipe).then_some(stream);
        }
        ready
    }
}

fn start_failed(error: SandboxError, output: Vec<String>) -> BuildError {
    match error.exit_code() {
        Some(code) => ErrorKind::Command {
            code: i32::from(code),
            signal: None,
            output,
            help: format!("{error}; check its name and that the image has it"),
        }
        .into(),
        None => BuildError::failed("run the command", error),
    }
}

/// Waits a little for a process to end.
pub(crate) fn ended(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&LOOK_EVERY)), Ok(count) if count > 0)
}
