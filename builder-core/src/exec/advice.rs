//! What to do about a command that failed, by its end and by what the Dockerfile asks of it.

use rbuild_dockerfile::mount::MountType;

use super::stage::StageRun;
use crate::error::{BuildError, ErrorKind};
use crate::plan::Run;
use crate::tree::AccountError;

/// The status of a shell whose command a SIGKILL ended.
const KILLED: i32 = 137;

impl StageRun<'_, '_> {
    /// Says what to do about a failed command, where more is known than its end.
    pub(crate) fn advised(&self, mut error: BuildError, run: &Run) -> BuildError {
        if let ErrorKind::Command { code, help, .. } = &mut error.kind {
            let better = broken_array(run, *code).or_else(|| self.absent_secret(run));
            *help = better.unwrap_or_else(|| std::mem::take(help));
        }
        error
    }

    fn absent_secret(&self, run: &Run) -> Option<String> {
        let secrets = run.mounts.iter().filter(|(mount, _)| mount.kind == MountType::Secret);
        let mut ids = secrets.map(|(mount, _)| mount.effective_id());
        let id = ids.find(|id| !self.build.options.secrets.contains_key(id))?;
        Some(format!("the secret `{id}` was not given: hand it over with --secret id={id},src=FILE"))
    }
}

/// What to do about a command that ended with a status or signal.
pub(super) fn of_end(code: i32, signal: Option<i32>) -> String {
    match (code, signal) {
        (_, Some(9)) => "the machine may have run out of memory".to_owned(),
        (KILLED, None) => "a program was killed: the machine may have run out of memory".to_owned(),
        (127, None) => "a program that the command calls is not in the image".to_owned(),
        _ => String::new(),
    }
}

/// What to do about a user that the image lacks.
pub(super) fn of_user(error: BuildError) -> BuildError {
    let is_unknown =
        |error: &AccountError| matches!(error, AccountError::UnknownUser { .. } | AccountError::UnknownGroup { .. });
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
    match cause.is_some_and(is_unknown) {
        true => error.with_help("USER or the base image chose it: add it in a step before USER, or give a number"),
        false => error,
    }
}

/// A command that was meant to be an array and is none: the shell takes its bracket and quotes for a program's name.
fn broken_array(run: &Run, code: i32) -> Option<String> {
    let command = run.argv.last().filter(|_| matches!(code, 2 | 127))?;
    is_broken_array(command).then(|| {
        "this is no JSON array, so a shell got it as it stands: an array has double quotes around each word and commas \
         between them, none behind the last"
            .to_owned()
    })
}

/// Whether a shell's command looks like an array. `[ "$A" = b ]` does not.
fn is_broken_array(command: &str) -> bool {
    let inside = command.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| {
        let inside = inside.trim();
        inside.starts_with(['"', '\'']) && (inside.contains(',') || inside.len() > 1 && inside.ends_with(['"', '\'']))
    }) && !command.contains(" = ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_told_from_tests() {
        for command in ["[\"echo\", \"a\" \"b\"]", "['sh', '-c', 'x']", "[ \"a\", \"b\", ]", "[\"a\" \"b\"]"] {
            assert!(is_broken_array(command), "{command}");
        }
        for command in ["[ \"$A\" = \"b\" ]", "[ -f /x ]", "echo [\"a\"]", "[\"a\"] && b", "[", "[]"] {
            assert!(!is_broken_array(command), "{command}");
        }
    }

    #[test]
    fn ends_have_advice() {
        assert!(of_end(137, None).contains("memory") && of_end(137, Some(9)).contains("memory"));
        assert_eq!(of_end(1, None), "");
    }
}
