//! `rbuild why`: why a step of a build was done, or was not, from the records of builds.

use rbuild_core::cache::{BuildEnd, BuildRecord, BuiltStep};
use rbuild_core::exec::{BuildOptions, Comparison, compare_builds, past_builds};
use rbuild_core::progress::{Miss, StepEnd, StepInfo};
use serde_json::{Value, json};

use super::build::prepare;
use super::{print_data, print_json, stored, table};
use crate::args::{BuildArgs, Format, WhyArgs};
use crate::error::{Failure, Kind, of_core};
use crate::output::{count, duration, title, visible};
use crate::settings::{BuildSettings, Environment, GlobalSettings};

/// Explains a step, or lists the builds.
pub(super) fn run(args: &WhyArgs, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let (step, context) = words(args)?;
    let build = BuildArgs { context, file: args.file.clone(), ..BuildArgs::default() };
    let settings = BuildSettings::new(&build, environment)?;
    let options = prepare(&settings, global, environment)?.options;
    let builds = past_builds(&options).map_err(|error| of_core(&error))?;
    if args.list {
        return list(&builds, args.format, environment);
    }
    let step = step.unwrap_or_default();
    let build = match &args.build {
        Some(id) => find_build(&builds, id)?,
        None => builds.first().ok_or_else(|| {
            Failure::new(Kind::Build, format!("no build of the Dockerfile in `{}` is on record", build.context))
                .hint("name the build context and the Dockerfile as for the build: `rbuild why STEP CONTEXT -f FILE`")
        })?,
    };
    let against = args.against.as_deref().map(|id| find_build(&builds, id)).transpose()?;
    let places = find_steps(build, &step)?;
    let mut answers = Vec::new();
    for place in places {
        answers.push(answer(&options, build, place, against)?);
    }
    match args.format {
        Format::Json => print_json(&Value::Array(answers.iter().map(Answer::to_json).collect())),
        Format::Table => {
            let texts: Vec<String> = answers.iter().map(|answer| answer.to_text(environment)).collect();
            print_data(texts.join("\n").as_bytes())
        }
    }
}

/// The step, and the build context.
fn words(args: &WhyArgs) -> Result<(Option<String>, String), Failure> {
    let context = |word: Option<&String>| word.cloned().unwrap_or_else(|| ".".to_owned());
    match (args.list, args.words.as_slice()) {
        (true, [_, _]) => {
            Err(Failure::new(Kind::Usage, "`--list` takes no step").hint("write `rbuild why --list CONTEXT`"))
        }
        (true, words) => Ok((None, context(words.first()))),
        (false, []) => Err(Failure::new(Kind::Usage, "the step is missing")
            .hint("write its number (`rbuild why 3`), `STAGE/NUMBER`, or how it begins (`rbuild why 'COPY src'`)")),
        (false, [step, rest @ ..]) => Ok((Some(step.clone()), context(rest.first()))),
    }
}

fn find_build<'b>(builds: &'b [BuildRecord], id: &str) -> Result<&'b BuildRecord, Failure> {
    builds.iter().find(|build| build.id == id).ok_or_else(|| {
        Failure::new(Kind::Build, format!("no build `{id}` of this Dockerfile is on record"))
            .hint("`rbuild why --list CONTEXT` lists the builds that are")
    })
}

/// The places of the steps that a text means.
fn find_steps(build: &BuildRecord, text: &str) -> Result<Vec<usize>, Failure> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let found: Vec<usize> = if let Ok(number) = text.trim_start_matches('#').parse::<usize>() {
        (1..=build.steps.len()).filter(|place| *place == number).map(|place| place - 1).collect()
    } else if let Some((stage, Ok(number))) = text.rsplit_once('/').map(|(stage, n)| (stage, n.parse::<usize>())) {
        let same = |step: &BuiltStep| step.stage.eq_ignore_ascii_case(stage) && step.position == number;
        (0..build.steps.len()).filter(|place| same(&build.steps[*place])).collect()
    } else {
        let begins = |step: &BuiltStep| [&step.name, &step.text].iter().any(|t| words(t).starts_with(&words(text)));
        (0..build.steps.len()).filter(|place| begins(&build.steps[*place])).collect()
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let known: Vec<String> =
        build.steps.iter().enumerate().map(|(place, step)| format!("#{} {}", place + 1, name(build, step))).collect();
    Err(Failure::new(Kind::Build, format!("the build `{}` has no step `{text}`", build.id))
        .hint(format!("its steps are: {}", known.join(", "))))
}

/// What is told of a step.
struct Answer<'a> {
    build: &'a BuildRecord,
    place: usize,
    step: &'a BuiltStep,
    /// The build that it was compared with for this answer, and how.
    compared: Option<(&'a BuildRecord, Comparison)>,
}

fn answer<'a>(
    options: &BuildOptions,
    build: &'a BuildRecord,
    place: usize,
    against: Option<&'a BuildRecord>,
) -> Result<Answer<'a>, Failure> {
    let compared = match against {
        Some(other) => {
            let comparison = compare_builds(options, build, place, other).map_err(|error| of_core(&error))?;
            Some((other, comparison))
        }
        None => None,
    };
    Ok(Answer { build, place, step: &build.steps[place], compared })
}

fn name(build: &BuildRecord, step: &BuiltStep) -> String {
    let of = build.steps.iter().filter(|other| other.stage == step.stage && other.platform == step.platform).count();
    let several = build.steps.iter().any(|other| other.platform != step.platform);
    title(&StepInfo {
        stage: step.stage.clone(),
        position: Some((step.position, of)),
        name: step.name.clone(),
        span: None,
        platform: if several { step.platform.parse().ok() } else { None },
    })
}

fn took(took_ms: u64) -> String {
    duration(std::time::Duration::from_millis(took_ms))
}

fn age(started: i64, environment: &Environment) -> String {
    let time = jiff::Timestamp::from_second(started).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
    stored::age(Some(&time), environment.now)
}

/// One line for each cause.
fn causes(miss: &Miss) -> String {
    miss.causes.iter().map(|cause| format!("  because: {}\n", visible(&cause.to_string()))).collect()
}

impl Answer<'_> {
    fn to_json(&self) -> Value {
        let step = self.step;
        let compared = self.compared.as_ref().map(|(other, comparison)| {
            let (result, miss) = match comparison {
                Comparison::Same => ("same", None),
                Comparison::Differs(miss) => ("differs", Some(miss)),
                Comparison::Absent => ("absent", None),
                Comparison::Unknown => ("unknown", None),
            };
            json!({ "build": other.id, "result": result, "miss": miss.map(ToString::to_string), "causes": miss })
        });
        let last_run = step.last_run.as_ref().map(|run| {
            json!({
                "build": run.build, "started": run.started, "seconds": run.took_ms as f64 / 1000.0,
                "miss": run.miss.as_ref().map(ToString::to_string), "causes": run.miss,
            })
        });
        json!({
            "build": self.build.id,
            "step": self.place + 1,
            "stage": step.stage,
            "position": step.position,
            "platform": step.platform,
            "name": step.name,
            "end": step.end,
            "seconds": step.took_ms as f64 / 1000.0,
            "miss": step.miss.as_ref().map(ToString::to_string),
            "causes": step.miss,
            "against": step.against,
            "last_run": last_run,
            "compared": compared,
        })
    }

    fn to_text(&self, environment: &Environment) -> String {
        let (build, step) = (self.build, self.step);
        let mut text = format!("#{} {}\n", self.place + 1, name(build, step));
        let end = match step.end {
            None if step.miss.is_some() => "not done: it was expected to be cached".to_owned(),
            None => "not come to".to_owned(),
            Some(StepEnd::Cached) => "cached, because all its inputs are those of an earlier run".to_owned(),
            Some(StepEnd::Done) => format!("done in {}", took(step.took_ms)),
            Some(StepEnd::Unchanged) => format!("done in {}, same result as before", took(step.took_ms)),
            Some(StepEnd::Failed) => format!("failed after {}", took(step.took_ms)),
            Some(StepEnd::Cancelled) => format!("stopped after {}", took(step.took_ms)),
        };
        text.push_str(&format!("  in build {}, {}: {end}\n", build.id, age(build.started, environment)));
        if let Some((other, comparison)) = &self.compared {
            text.push_str(&match comparison {
                Comparison::Same => format!("  it has the same inputs as in build {}\n", other.id),
                Comparison::Differs(miss) => {
                    format!("  its inputs differ from those in build {}\n{}", other.id, causes(miss))
                }
                Comparison::Absent => format!("  build {} has no such step\n", other.id),
                Comparison::Unknown => format!(
                    "  it cannot be compared with build {}: the inputs of one of the two are not on record\n",
                    other.id
                ),
            });
            return text;
        }
        if let Some(miss) = &step.miss {
            text.push_str(&causes(miss));
            text.extend(step.against.iter().map(|against| format!("  compared with build {against}\n")));
        } else if let Some(last) = &step.last_run {
            let (ago, took) = (age(last.started, environment), took(last.took_ms));
            text.push_str(&format!("  last done in build {}, {ago}, in {took}\n", last.build));
            text.extend(last.miss.iter().map(causes));
        }
        text
    }
}

/// Lists the builds on record.
fn list(builds: &[BuildRecord], format: Format, environment: &Environment) -> Result<(), Failure> {
    let end = |build: &BuildRecord| match build.end {
        BuildEnd::Done => "done",
        BuildEnd::Failed => "failed",
        BuildEnd::Cancelled => "cancelled",
    };
    let cached = |build: &BuildRecord| build.steps.iter().filter(|s| s.end == Some(StepEnd::Cached)).count();
    if format == Format::Json {
        let build = |build: &BuildRecord| {
            json!({
                "build": build.id, "context": build.context, "dockerfile": build.dockerfile, "started": build.started,
                "seconds": build.took_ms as f64 / 1000.0, "end": end(build), "steps": build.steps.len(),
                "cached": cached(build),
            })
        };
        return print_json(&Value::Array(builds.iter().map(build).collect()));
    }
    let row = |build: &BuildRecord| {
        let steps = format!("{}, {} cached", count(build.steps.len(), "step"), cached(build));
        vec![build.id.clone(), age(build.started, environment), took(build.took_ms), end(build).to_owned(), steps]
    };
    let rows: Vec<Vec<String>> = builds.iter().map(row).collect();
    print_data(table(&["BUILD", "STARTED", "TOOK", "END", "STEPS"], &rows).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(stage: &str, position: usize, text: &str) -> BuiltStep {
        BuiltStep {
            stage: stage.to_owned(),
            platform: "linux/amd64".to_owned(),
            position,
            name: text.replace("$V", "1"),
            text: text.to_owned(),
            key: None,
            result: None,
            end: Some(StepEnd::Cached),
            took_ms: 0,
            miss: None,
            against: None,
            last_run: None,
        }
    }

    #[test]
    fn steps_are_found_by_number_place_and_text() {
        let build = BuildRecord {
            id: "ab-1".to_owned(),
            context: String::new(),
            dockerfile: String::new(),
            started: 0,
            took_ms: 0,
            end: BuildEnd::Done,
            steps: vec![step("a", 1, "RUN  x"), step("a", 2, "COPY $V /"), step("b", 1, "RUN x y")],
        };
        for (text, want) in [
            ("2", &[1][..]),
            ("#2", &[1]),
            ("b/1", &[2]),
            ("A/2", &[1]),
            ("run x", &[0, 2]),
            ("RUN x y", &[2]),
            ("COPY 1", &[1]),
            ("copy $V", &[1]),
        ] {
            assert_eq!(find_steps(&build, text).unwrap(), want, "{text}");
        }
        for text in ["0", "4", "b/2", "ADD"] {
            let failure = find_steps(&build, text).unwrap_err();
            assert!(failure.problems[0].hints[0].contains("#3 [b 1/1] RUN x y"), "{failure:?}");
        }
    }
}
