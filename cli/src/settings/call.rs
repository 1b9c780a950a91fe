//! `--call` and `--check`: what is done with the Dockerfile in place of a build.

use super::{UsageError, csv};
use crate::args::BuildArgs;

/// What is done with the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Call {
    /// It is built.
    #[default]
    Build,
    /// It is only checked.
    Check {
        /// Whether the findings are printed as JSON.
        json: bool,
        /// Whether findings leave the exit status 0.
        ignore_status: bool,
    },
    /// What a build takes is printed: arguments, secrets, agents.
    Outline {
        /// Whether it is printed as JSON.
        json: bool,
    },
    /// The stages that can be built are printed.
    Targets {
        /// Whether they are printed as JSON.
        json: bool,
    },
    /// The methods that there are besides building are printed.
    Describe {
        /// Whether they are printed as JSON.
        json: bool,
    },
}

/// Reads `--call`, `--check`, and the old name `--print`.
pub(super) fn call(args: &BuildArgs) -> Result<Call, UsageError> {
    let value = match (args.call.as_deref().or(args.ignored.print.as_deref()), args.check == Some(true)) {
        (Some(_), true) => return Err(UsageError::new("`--call` and `--check` cannot be used together")),
        (None, true) => "check",
        (value, false) => value.unwrap_or("build"),
    };
    let mut fields = csv::fields("--call", value)?.into_iter();
    let method = fields.next().unwrap_or_default();
    let (mut json, mut ignore_status) = (false, false);
    for field in fields {
        match field.as_str() {
            "format=json" => json = true,
            "format=text" => json = false,
            "ignorestatus" | "ignorestatus=true" => ignore_status = true,
            "ignorestatus=false" => ignore_status = false,
            _ => {
                return Err(UsageError::value("--call", value, &format!("unknown field `{field}`"))
                    .hint("fields are format=text, format=json and ignorestatus"));
            }
        }
    }
    match method.strip_prefix("method=").unwrap_or(&method) {
        "" | "build" => Ok(Call::Build),
        "check" | "lint" => Ok(Call::Check { json, ignore_status }),
        "subrequests.describe" => Ok(Call::Describe { json }),
        "outline" => Ok(Call::Outline { json }),
        "targets" => Ok(Call::Targets { json }),
        other => Err(UsageError::value("--call", value, &format!("there is no method `{other}`"))
            .hint("methods are build, check, outline, targets and subrequests.describe")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn calls_are_read() {
        let call = |line: &[&str]| {
            let words = ["rbuild", "build"].iter().chain(line).chain(&["/"]);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Build(args) => call(&args).unwrap(),
                _ => unreachable!("the line begins with `build`"),
            }
        };
        assert_eq!(call(&["--check"]), Call::Check { json: false, ignore_status: false });
        assert_eq!(call(&["--call=check,format=json,ignorestatus"]), Call::Check { json: true, ignore_status: true });
        assert_eq!(call(&["--call=subrequests.describe,format=json"]), Call::Describe { json: true });
    }
}
