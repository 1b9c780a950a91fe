//! `rbuild run`: a command in an image, with the sandbox of RUN steps. What it writes is thrown away.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rbuild_core::error::BuildError;
use rbuild_core::exec::{Cancel, RunImageOptions, run_image};
use rbuild_core::oci::Descriptor;
use rbuild_core::plan::NetworkChoice;
use rbuild_core::sys::pty;
use rbuild_core::sys::sandbox::SandboxError;
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};

use super::{client, namespace, stored};
use crate::args::RunArgs;
use crate::error::{Failure, Kind, of_core};
use crate::settings::{self, Environment, GlobalSettings, Network, UsageError};
use crate::signals::Stop;

/// The size of a terminal that nobody sees.
const DEFAULT_SIZE: (u16, u16) = (24, 80);
/// How often the size of our terminal is looked at.
const SIZE_INTERVAL: Duration = Duration::from_millis(250);
/// How long the last output of a command may take to come out of its terminal.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Runs the command; gives its exit status.
pub(super) fn run(args: &RunArgs, global: &GlobalSettings, environment: &Environment) -> Result<u8, Failure> {
    if let Some(refusal) = namespace::enter(environment)?.refusal {
        return Err(refusal);
    }
    let store = stored::open(global)?;
    let found = stored::find(&store, &args.reference)?;
    let image = found.into_iter().next().expect("a search that finds nothing is an error").descriptor;
    let stop = Stop::listen()?;
    let mut options = options(args, global, environment, image)?;
    options.registry = client::options(global, environment, stop.flag(), Arc::new(|_| {}))?;
    let own_terminal = environment.stdin_is_terminal && environment.stdout_is_terminal;
    if args.tty {
        let size = tcgetwinsize(rustix::stdio::stdout()).ok().map(|size| (size.ws_row, size.ws_col));
        options.terminal = size.filter(|size| size.0 > 0 && size.1 > 0).or(Some(DEFAULT_SIZE));
    }
    let stdin = if args.interactive { Some(own(rustix::stdio::stdin())?) } else { None };
    let streams = (stdin, own(rustix::stdio::stdout())?, own(rustix::stdio::stderr())?);
    let mut running = run_image(&options, streams).map_err(|error| of_core(&error))?;
    let session = match running.take_terminal() {
        Some(terminal) => Some(Session::start(terminal, args.interactive, own_terminal)?),
        None => None,
    };
    let ended = running.wait(&Cancel::from_flag(stop.flag()));
    if let Some(session) = session {
        session.end();
    }
    match (ended, stop.signal()) {
        (_, Some(signal)) => Ok(u8::try_from(128 + signal).unwrap_or(1)),
        (Ok(status), None) => Ok(status),
        (Err(error), None) => Err(failure(&error)),
    }
}

/// A command that could not be started has the status that a shell gives: 127 for no such program, 126 for no program.
fn failure(error: &BuildError) -> Failure {
    let mut failure = of_core(error);
    let sandbox = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<SandboxError>());
    if let Some(status) = sandbox.and_then(SandboxError::exit_code) {
        failure.kind = Kind::Started(status);
    }
    failure
}

fn own(stream: impl AsFd) -> Result<OwnedFd, Failure> {
    let cloned = stream.as_fd().try_clone_to_owned();
    cloned.map_err(|error| Failure::caused(Kind::Environment, "cannot use the standard streams", &error))
}

fn options(
    args: &RunArgs,
    global: &GlobalSettings,
    environment: &Environment,
    image: Descriptor,
) -> Result<RunImageOptions, Failure> {
    let mut options = RunImageOptions::new(&global.root, image);
    options.command = args
        .command
        .iter()
        .map(|word| word.clone().into_string().map_err(|word| not_text(&word.to_string_lossy())))
        .collect::<Result<_, _>>()?;
    options.entrypoint.clone_from(&args.entrypoint);
    options.env = args.env.iter().filter_map(|value| variable(value, environment)).collect();
    options.volumes = args.volume.iter().map(|value| volume(value, environment)).collect::<Result<_, _>>()?;
    options.working_dir.clone_from(&args.workdir);
    options.user.clone_from(&args.user);
    options.network = match settings::network(&args.network)? {
        Network::Default => NetworkChoice::Default,
        Network::Host => NetworkChoice::Host,
        Network::None => NetworkChoice::None,
    };
    options.program_path = std::env::split_paths(&namespace::search_path(environment)).collect();
    Ok(options)
}

fn not_text(word: &str) -> Failure {
    Failure::new(Kind::Usage, format!("the argument `{word}` is not UTF-8"))
}

/// Reads `-e NAME=VALUE`; a name alone takes the value of our own variable, and is left out where there is none.
fn variable(value: &str, environment: &Environment) -> Option<(String, String)> {
    match value.split_once('=') {
        Some((name, text)) => Some((name.to_owned(), text.to_owned())),
        None => environment.exact(value).map(|text| (value.to_owned(), text)),
    }
}

/// Reads `-v SOURCE:TARGET[:ro]`.
fn volume(value: &str, environment: &Environment) -> Result<(PathBuf, String, bool), UsageError> {
    let wrong =
        |reason: &str| UsageError::value("--volume", value, reason).hint("write `SOURCE:TARGET` or `SOURCE:TARGET:ro`");
    let mut parts = value.split(':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() && target.starts_with('/') => (source, target),
        _ => return Err(wrong("expected a path of this machine and an absolute path of the image")),
    };
    let mut read_only = false;
    for option in parts.flat_map(|options| options.split(',')) {
        match option {
            "ro" => read_only = true,
            // Labels of SELinux and kinds of propagation have no meaning for a mount that nobody shares.
            "rw" | "z" | "Z" | "private" | "rprivate" => {}
            _ => return Err(wrong(&format!("unknown option `{option}`"))),
        }
    }
    let path = settings::absolute(Path::new(source), environment);
    if !path.exists() {
        return Err(wrong(&format!("there is no `{}`", path.display())));
    }
    Ok((path, target.to_owned(), read_only))
}

/// Our terminal and the command's, connected.
struct Session {
    /// How our terminal was before, where it was changed.
    before: Option<Termios>,
    ended: Arc<AtomicBool>,
    output: std::sync::mpsc::Receiver<()>,
}

impl Session {
    fn start(terminal: OwnedFd, interactive: bool, own_terminal: bool) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::caused(Kind::Environment, "cannot connect the terminals", &error);
        let terminal = File::from(terminal);
        let (done, output) = std::sync::mpsc::channel();
        let mut from = terminal.try_clone().map_err(failed)?;
        std::thread::spawn(move || {
            copy(&mut from, &mut io::stdout().lock());
            // Nobody waits any more when the session was ended in time.
            let _ = done.send(());
        });
        if interactive {
            let mut to = terminal.try_clone().map_err(failed)?;
            // Ends with the process: there is no way to wake a read of standard input.
            std::thread::spawn(move || copy(&mut io::stdin().lock(), &mut to));
        }
        let before = if own_terminal && interactive { Some(make_raw().map_err(failed)?) } else { None };
        let ended = Arc::new(AtomicBool::new(false));
        if own_terminal {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || follow_size(&terminal, &ended));
        }
        Ok(Self { before, ended, output })
    }

    /// Waits for the last output, and gives our terminal back as it was.
    fn end(self) {
        let _ = self.output.recv_timeout(DRAIN_TIME);
        self.ended.store(true, Ordering::SeqCst);
        if let Some(before) = self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
        }
    }
}

/// Copies until an end; a terminal whose command is gone gives an error in place of one.
fn copy(from: &mut dyn Read, to: &mut dyn Write) {
    let mut buffer = [0; 8192];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// Hands every key to the command, Ctrl-C included; gives what our terminal was before.
fn make_raw() -> io::Result<Termios> {
    let before = tcgetattr(rustix::stdio::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
    Ok(before)
}

/// Gives the command's terminal the size of ours whenever that changes.
fn follow_size(terminal: &File, ended: &AtomicBool) {
    let size = || tcgetwinsize(rustix::stdio::stdout()).ok().map(|Winsize { ws_row, ws_col, .. }| (ws_row, ws_col));
    let mut last = size();
    while !ended.load(Ordering::SeqCst) {
        std::thread::sleep(SIZE_INTERVAL);
        let now = size();
        if now != last {
            last = now;
            if let Some((rows, columns)) = now {
                let _ = pty::resize(terminal, pty::Size { rows, columns });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read() {
        let environment = Environment::of(&[]);
        let read = |value| volume(value, &environment).ok();
        assert_eq!(read("/etc:/x"), Some(("/etc".into(), "/x".to_owned(), false)));
        assert_eq!(read("/etc:/x:ro,z"), Some(("/etc".into(), "/x".to_owned(), true)));
        for value in ["/etc", "/etc:x", ":/x", "/etc:/x:sticky", "/nowhere:/x"] {
            assert!(volume(value, &environment).is_err(), "{value}");
        }
    }

    #[test]
    fn variables_come_from_here_without_a_value() {
        let environment = Environment::of(&[("HERE", "yes")]);
        assert_eq!(variable("A=b=c", &environment), Some(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("HERE", &environment), Some(("HERE".to_owned(), "yes".to_owned())));
        assert_eq!(variable("GONE", &environment), None);
    }
}
