//! The `rbuild` command: a thin layer over `rbuild-core`.
//!
//! ```text
//! arguments --args--> as typed --settings--> as meant --commands--> rbuild-core
//!                                  core's events --output--> standard error      core's errors --error--> text, status
//! ```
//!
//! Standard output is for data; everything else goes to standard error. No other module of the workspace reads the
//! environment, prints, or ends the process.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod output;
mod rewrite;
mod settings;
mod signals;

use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::FromArgMatches;

use crate::args::Cli;
use crate::error::{Failure, Kind, Look};
use crate::settings::Environment;

fn main() -> ExitCode {
    rbuild_core::sys::heap::give_back_large_blocks();
    let environment = match Environment::of_process() {
        Ok(environment) => environment,
        Err(error) => {
            tell(&Failure::caused(Kind::Environment, "cannot find the current folder", &error), plain_look());
            return ExitCode::from(3);
        }
    };
    let look = look(&environment);
    let panicked = catch_panics();
    // The command is over when it panics: nothing that it left half-done is looked at again.
    let result = panic::catch_unwind(AssertUnwindSafe(|| run(&environment)));
    match result {
        Ok(Ok(status)) => ExitCode::from(status),
        Ok(Err(failure)) => {
            tell(&failure, look);
            ExitCode::from(failure.status())
        }
        Err(_) => {
            let what = panicked.lock().map(|text| text.clone()).unwrap_or_default();
            let failure = panicked_failure(&what);
            tell(&failure, look);
            ExitCode::from(failure.status())
        }
    }
}

/// Reads the command line and does what it says; gives the exit status.
fn run(environment: &Environment) -> Result<u8, Failure> {
    let matches = match commands::command_line().try_get_matches_from(args::expand(std::env::args_os())) {
        Ok(matches) => matches,
        Err(error) => {
            // Help that is asked for goes to standard output; a pipe that closes early is no error.
            let _ = error.print();
            return Ok(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    commands::dispatch(&cli, environment)
}

fn look(environment: &Environment) -> Look {
    let width = rustix::termios::tcgetwinsize(rustix::stdio::stderr()).ok().map_or(0, |size| usize::from(size.ws_col));
    Look {
        colours: environment.colours(environment.stderr_is_terminal),
        width: if width == 0 { plain_look().width } else { width },
    }
}

fn plain_look() -> Look {
    Look { colours: false, width: 120 }
}

fn tell(failure: &Failure, look: Look) {
    // Standard error is gone: the exit status still tells.
    let _ = std::io::stderr().write_all(error::render(failure, look).as_bytes());
}

/// Keeps what a panic says, in place of printing it at once in the midst of the progress display.
fn catch_panics() -> Arc<Mutex<String>> {
    let kept = Arc::new(Mutex::new(String::new()));
    let keep = Arc::clone(&kept);
    panic::set_hook(Box::new(move |info| {
        if let Some(mut text) = keep.lock().ok().filter(|text| text.is_empty()) {
            *text = info.to_string().replace('\n', " ");
        }
    }));
    kept
}

/// What panics of the standard library and of rayon say where the system gives no thread.
const NO_THREADS: [&str; 2] = ["failed to spawn thread", "ThreadPoolBuildError"];

/// What a panic means to a user.
fn panicked_failure(what: &str) -> Failure {
    if NO_THREADS.iter().any(|text| what.contains(text)) {
        return Failure::new(Kind::Environment, "the system gives rbuild no more threads").hint(
            "raise the limit of processes (`ulimit -u`, `pids.max` of the control group), or do less at a time with `--jobs 1`",
        );
    }
    Failure::new(Kind::Internal, format!("internal error: {what}")).hint(format!(
        "this is a fault in rbuild {}; please report it with the command and the text above",
        env!("CARGO_PKG_VERSION")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_the_system_refuses_is_no_fault() {
        let refused =
            "panicked at std/src/thread/scoped.rs:206:46: failed to spawn thread: Os { code: 11, kind: WouldBlock }";
        let rayon =
            "panicked at rayon-core/src/registry.rs:171:10: ThreadPoolBuildError { kind: IOError(Os { code: 11 }) }";
        let kinds =
            [refused, rayon, "panicked at a.rs:1:1: index out of bounds"].map(|what| panicked_failure(what).kind);
        assert_eq!(kinds, [Kind::Environment, Kind::Environment, Kind::Internal]);
    }
}
