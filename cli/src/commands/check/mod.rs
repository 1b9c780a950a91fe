//! `rbuild check`: all rules, told with the lines they are about, and mended where that takes no decision.

mod sarif;
mod text;

use std::path::{Path, PathBuf};

use rbuild_core::exec::CheckResult;
use rbuild_dockerfile::lint::JsonReport;
use serde_json::json;

use super::{build, fmt, print_data, print_json};
use crate::args::{BuildArgs, CheckArgs, ReportFormat};
use crate::error::{Failure, Kind, of_core};
use crate::rewrite::{edits_for, mend};
use crate::settings::{BuildSettings, Context, DockerfileFrom, Environment, GlobalSettings, absolute};

/// How often findings are mended: mending one may bring up another, such as the case of `AS` after that of `FROM`.
const ROUNDS: usize = 4;

/// Checks; gives the exit status: 1 where something is left to be done.
pub(super) fn run(args: &CheckArgs, global: &GlobalSettings, environment: &Environment) -> Result<u8, Failure> {
    let settings = BuildSettings::new(&build_args(args, environment), environment)?;
    let mut checked = build::look(&settings, global, environment)?;
    let found = checked.outcome.warnings.len();
    if args.fix {
        for _ in 0..ROUNDS {
            let Some(text) = mend(&checked.dockerfile, &checked.outcome.warnings) else { break };
            fmt::write(&path_of(&settings, &checked.name, environment)?, &checked.name, &text)?;
            checked = build::look(&settings, global, environment)?;
        }
    }
    let mended = found.saturating_sub(checked.outcome.warnings.len());
    print(args.format, &checked, mended, environment)?;
    let has_errors = checked.outcome.error.is_some() || checked.error.is_some();
    Ok(u8::from(!checked.outcome.warnings.is_empty() || has_errors))
}

/// The build that is checked. A file in place of a folder is the Dockerfile, and its folder the context.
fn build_args(args: &CheckArgs, environment: &Environment) -> BuildArgs {
    let path = absolute(Path::new(&args.path), environment);
    let is_file = args.file.is_none() && path.is_file();
    let folder = Path::new(&args.path).parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| ".".to_owned(), |folder| folder.to_string_lossy().into_owned());
    BuildArgs {
        context: if is_file { folder } else { args.path.clone() },
        file: if is_file { Some(args.path.clone()) } else { args.file.clone() },
        target: args.target.clone(),
        build_arg: args.build_arg.clone(),
        build_context: args.build_context.clone(),
        platform: args.platform.clone().into_iter().collect(),
        ..BuildArgs::default()
    }
}

/// The file that the Dockerfile was read from.
fn path_of(settings: &BuildSettings, name: &str, environment: &Environment) -> Result<PathBuf, Failure> {
    match (&settings.dockerfile, &settings.context) {
        (DockerfileFrom::Path(path), Context::Directory(_)) => Ok(absolute(path, environment)),
        (DockerfileFrom::Default, Context::Directory(folder)) => Ok(folder.join(name)),
        _ => Err(Failure::new(Kind::Usage, "cannot mend a Dockerfile that is no file of this machine")
            .hint("leave `--fix` out, or give a folder or a file")),
    }
}

fn print(format: ReportFormat, checked: &CheckResult, mended: usize, environment: &Environment) -> Result<(), Failure> {
    let CheckResult { name, dockerfile, outcome, error } = checked;
    match format {
        ReportFormat::Text => print_data(text::render(checked, mended, text::look(environment)).as_bytes()),
        ReportFormat::Json => {
            let report = JsonReport::new(outcome, dockerfile, name);
            let mut report = serde_json::to_value(report).expect("a report has string keys only");
            report["errors"] = error.as_ref().map_or_else(|| json!([]), |error| of_core(error).problems_json());
            print_json(&report)
        }
        ReportFormat::Sarif => print_json(&sarif::report(checked)),
    }
}

/// How many of the findings can be mended.
fn mendable(checked: &CheckResult) -> usize {
    let file = &checked.dockerfile;
    checked.outcome.warnings.iter().filter(|warning| !edits_for(file, warning).is_empty()).count()
}
