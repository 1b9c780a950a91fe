//! What is told and written once the image is whole.

use std::fs;
use std::path::Path;

use rbuild_core::exec::{BuildOptions, BuildResult, CheckResult};
use rbuild_core::progress::Warning;
use rbuild_core::reference::Reference;
use rbuild_dockerfile::lint::{JsonReport, RULES, TextReport};
use serde_json::{Value, json};

use crate::commands::{print_data, print_json};
use crate::error::{Failure, Kind};
use crate::output::{Display, count, duration};
use crate::settings::{BuildSettings, Destination, OutputKind};

/// How many digits of a digest are enough to name an image.
const SHORT_DIGEST: usize = 12;

/// Writes `--iidfile` and `--metadata-file`, prints the digest or the summary.
pub(super) fn write(
    settings: &BuildSettings,
    options: &BuildOptions,
    built: &BuildResult,
    display: &Display,
) -> Result<(), Failure> {
    let digest = built.manifest.as_ref().map(|manifest| manifest.digest.to_string());
    if let (Some(path), Some(digest)) = (&settings.iidfile, &digest) {
        write_file(path, digest.as_bytes())?;
    }
    if let Some(path) = &settings.metadata_file {
        write_file(path, format!("{:#}\n", metadata(options, built)).as_bytes())?;
    }
    if let (true, Some(digest)) = (settings.quiet, &digest) {
        print_data(format!("{digest}\n").as_bytes())?;
    }
    let (steps, cached) = display.tally().counts();
    let names: Vec<String> = options.tags.iter().map(Reference::familiar).collect();
    let finished = json!({
        "tags": names, "manifest": digest, "config": config_digest(built),
        "steps": steps, "cached": cached, "seconds": display.elapsed().as_secs_f64(),
    });
    if !display.json("finished", finished) {
        let head = format!("in {} ({}, {cached} cached)", duration(display.elapsed()), count(steps, "step"));
        let mut lines = warnings(&display.tally().warnings);
        lines.extend(summary(settings, &names, digest.as_deref(), &head));
        display.say(&lines);
    }
    Ok(())
}

/// Prints what a check found; gives the exit status: 1 where something was found or the text is wrong.
pub(super) fn checked(checked: &CheckResult, json: bool, ignore_status: bool) -> Result<u8, Failure> {
    let CheckResult { name, dockerfile, outcome, error: _ } = checked;
    if json {
        let report = JsonReport::new(outcome, dockerfile, name);
        print_json(&serde_json::to_value(report).expect("a report has string keys only"))?;
    } else {
        print_data(TextReport { outcome, file: dockerfile, filename: name }.to_string().as_bytes())?;
    }
    let clean = outcome.warnings.is_empty() && outcome.error.is_none();
    Ok(if clean || ignore_status { 0 } else { 1 })
}

/// How many warnings there were, and what explains those of the linter: they may have scrolled away.
fn warnings(told: &[Warning]) -> Vec<String> {
    let explained = told.iter().any(|warning| RULES.iter().any(|rule| rule.name == warning.rule));
    let more = if explained { "; `rbuild check` explains what it finds" } else { "" };
    if told.is_empty() { Vec::new() } else { vec![format!("{} found{more}", count(told.len(), "warning"))] }
}

fn config_digest(built: &BuildResult) -> Option<String> {
    built.images.first().and_then(|image| image.config_digest).map(|digest| digest.to_string())
}

/// The last lines of a build: what it is called, where it is, how to run it.
fn summary(settings: &BuildSettings, names: &[String], digest: Option<&str>, head: &str) -> Vec<String> {
    let mut lines = vec![format!("built {} {head}", digest.unwrap_or("the files"))];
    let pushed = settings.outputs.iter().any(|output| output.push);
    lines.extend(names.iter().map(|name| format!("{} {name}", if pushed { "pushed" } else { "named" })));
    for output in &settings.outputs {
        match (&output.destination, output.kind) {
            (Some(Destination::Path(path)), _) => lines.push(format!("wrote {}", path.display())),
            (Some(Destination::Stdout), _) => lines.push("wrote it to standard output".to_owned()),
            (None, OutputKind::Docker) => lines.push("handed it to Docker".to_owned()),
            (None, _) => {}
        }
    }
    let short = digest.map(|digest| digest.trim_start_matches("sha256:").chars().take(SHORT_DIGEST).collect());
    if let Some(name) = short.map(|short| names.first().cloned().unwrap_or(short)) {
        lines.push(format!("run it with: rbuild run {name}"));
    }
    lines
}

/// The facts of `--metadata-file`, with buildx's names.
fn metadata(options: &BuildOptions, built: &BuildResult) -> Value {
    let names: Vec<String> = options.tags.iter().map(ToString::to_string).collect();
    let mut facts = json!({});
    if let Some(manifest) = &built.manifest {
        facts["containerimage.digest"] = json!(manifest.digest.to_string());
        facts["containerimage.descriptor"] = json!(manifest);
    }
    if let Some(config) = config_digest(built) {
        facts["containerimage.config.digest"] = json!(config);
    }
    if !names.is_empty() {
        facts["image.name"] = json!(names.join(","));
    }
    facts
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes)
        .map_err(|error| Failure::caused(Kind::Environment, format!("cannot write `{}`", path.display()), &error))
}
