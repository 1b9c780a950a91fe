//! What is told and written once the image is whole.

use std::fs;
use std::path::Path;

use rbuild_core::{BuildOptions, BuildResult};
use serde_json::json;

use crate::commands::print_data;
use crate::error::{Failure, Kind};
use crate::output::{Display, count, duration};
use crate::settings::{BuildSettings, Destination, OutputKind};

/// Writes `--iidfile` and `--metadata-file`, prints the digest or the summary.
pub(super) fn write(
    settings: &BuildSettings,
    options: &BuildOptions,
    built: &BuildResult,
    display: &Display,
) -> Result<(), Failure> {
    let digest = built.manifest.digest.to_string();
    if let Some(path) = &settings.iidfile {
        write_file(path, digest.as_bytes())?;
    }
    if let Some(path) = &settings.metadata_file {
        write_file(path, format!("{:#}\n", metadata(options, built)).as_bytes())?;
    }
    if settings.quiet {
        print_data(format!("{digest}\n").as_bytes())?;
    }
    let (steps, cached) = display.tally().counts();
    let names: Vec<String> = options.tags.iter().map(|tag| tag.familiar()).collect();
    let finished = json!({
        "tags": names, "manifest": digest, "config": built.config.to_string(),
        "steps": steps, "cached": cached, "seconds": display.elapsed().as_secs_f64(),
    });
    if !display.json("finished", finished) {
        display.say(&summary(settings, &names, &digest, (steps, cached), display));
    }
    Ok(())
}

/// The last lines of a build: what it is called, where it is, how to run it.
fn summary(
    settings: &BuildSettings,
    names: &[String],
    digest: &str,
    steps: (usize, usize),
    display: &Display,
) -> Vec<String> {
    let (steps, cached) = steps;
    let mut lines =
        vec![format!("built {digest} in {} ({}, {cached} cached)", duration(display.elapsed()), count(steps, "step"))];
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
    let name =
        names.first().cloned().unwrap_or_else(|| digest.trim_start_matches("sha256:").chars().take(12).collect());
    lines.push(format!("run it with: rbuild run {name}"));
    lines
}

/// The facts of `--metadata-file`, with buildx's names.
fn metadata(options: &BuildOptions, built: &BuildResult) -> serde_json::Value {
    let names: Vec<String> = options.tags.iter().map(ToString::to_string).collect();
    let mut facts = json!({
        "containerimage.digest": built.manifest.digest.to_string(),
        "containerimage.config.digest": built.config.to_string(),
        "containerimage.descriptor": built.manifest,
    });
    if !names.is_empty() {
        facts["image.name"] = json!(names.join(","));
    }
    facts
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes)
        .map_err(|error| Failure::caused(Kind::Environment, format!("cannot write `{}`", path.display()), &error))
}
