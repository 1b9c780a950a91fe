//! Helper programs, run with a cleaned environment.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::{Access, AtFlags, CWD, FileType};

use super::call;

/// A helper program failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It could not be started or read from.
    #[error("cannot run `{}`", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It wrote more than it may.
    #[error("`{}` wrote more than {limit_bytes} bytes", program.display())]
    TooMuchOutput {
        /// The program.
        program: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// It ended with another status than 0.
    #[error("`{}` failed ({status}): {message}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// Its status.
        status: ExitStatus,
        /// What it wrote to standard error.
        message: String,
    },
}

/// The most that is kept of a helper's standard error.
const MESSAGE_LIMIT: u64 = 64 << 10;

/// Finds a program in a list of folders as in `PATH`. Folders that are not absolute are skipped.
#[must_use]
pub fn find_program(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    search_path
        .as_bytes()
        .split(|&b| b == b':')
        .filter(|folder| folder.starts_with(b"/"))
        .map(|folder| Path::new(OsStr::from_bytes(folder)).join(name))
        .find(|path| {
            let file = rustix::fs::stat(path)
                .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
            file && rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
        })
}

/// A helper program: exactly this environment, no standard input, killed when the thread that runs it is gone.
///
/// Wait for it on the thread that starts it.
#[must_use]
pub fn command(program: &Path, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(environment).stdin(Stdio::null());
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(|| Ok(call::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?)) };
    command
}

/// Runs a helper to its end and returns its standard output.
///
/// # Errors
/// When it cannot be run, fails, or writes more than `limit_bytes`.
pub fn output(command: &mut Command, limit_bytes: u64) -> Result<Vec<u8>, ProcessError> {
    let program = PathBuf::from(command.get_program());
    let failed = |source| ProcessError::Run { program: program.clone(), source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |stream: Option<&mut dyn Read>, limit: u64| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            stream.take(limit).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let (bytes, message) = std::thread::scope(|scope| {
        let message = scope.spawn(|| {
            let mut stream = stderr;
            let message = read(stream.as_mut().map(|s| s as &mut dyn Read), MESSAGE_LIMIT);
            // What is too much is read and dropped, so that the helper never waits for us.
            if let Some(mut stream) = stream {
                let _ = io::copy(&mut stream, &mut io::sink());
            }
            message
        });
        let mut stream = stdout;
        let bytes = read(stream.as_mut().map(|s| s as &mut dyn Read), limit_bytes + 1);
        drop(stream);
        if !matches!(&bytes, Ok(bytes) if bytes.len() as u64 <= limit_bytes) {
            let _ = child.kill();
        }
        (bytes, message.join().unwrap_or_else(|_| Ok(Vec::new())))
    });
    let status = child.wait().map_err(failed)?;
    let bytes = bytes.map_err(failed)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(ProcessError::TooMuchOutput { program, limit_bytes });
    }
    if !status.success() {
        let message = String::from_utf8_lossy(&message.unwrap_or_default()).trim().to_owned();
        return Err(ProcessError::Failed { program, status, message });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_output_and_failure() {
        let shell = Path::new("/bin/sh");
        let environment = || [("A".into(), "b c".into())];
        let text = output(command(shell, environment()).args(["-c", "echo \"$A-$HOME\""]), 100).expect("it runs");
        assert_eq!(text, b"b c-\n");
        let error =
            output(command(shell, environment()).args(["-c", "echo no >&2; exit 3"]), 100).expect_err("it fails");
        assert!(matches!(error, ProcessError::Failed { ref message, .. } if message == "no"), "{error}");
        let error = output(command(shell, environment()).args(["-c", "while :; do echo y; done"]), 100);
        assert!(matches!(error, Err(ProcessError::TooMuchOutput { .. })));
    }

    #[test]
    fn programs_are_found_in_absolute_folders_only() {
        assert_eq!(find_program("sh", OsStr::new("bin:/nowhere:/bin")), Some("/bin/sh".into()));
        assert_eq!(find_program("sh", OsStr::new("bin::.")), None);
    }
}
