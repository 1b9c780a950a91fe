//! `rbuild plan`: what a build would do, and why.

use rbuild_core::exec::{Cancel, Forecast, ForecastStep, Outlook, forecast};
use serde_json::{Value, json};

use super::build::{Prepared, prepare};
use super::history::shorten;
use super::{namespace, print_data, print_json, table};
use crate::args::{Format, PlanArgs};
use crate::error::{Failure, of_build};
use crate::output::{count, duration, title, visible};
use crate::settings::{BuildSettings, Environment, GlobalSettings};

/// The exit status where something would run.
const WOULD_RUN: u8 = 3;

/// Tells what a build would do; gives the exit status.
pub(super) fn run(args: &PlanArgs, global: &GlobalSettings, environment: &Environment) -> Result<u8, Failure> {
    let settings = BuildSettings::new(&args.build, environment)?;
    // As a build does: files of the store may belong to others outside of the namespace.
    namespace::enter(environment)?;
    let Prepared { options, events, display, stop, .. } = prepare(&settings, global, environment)?;
    let forecast = forecast(&options, events, &Cancel::from_flag(stop.flag()))
        .map_err(|error| stop.failure().unwrap_or_else(|| of_build(&error, &display)))?;
    match args.format {
        Format::Json => print_json(&to_json(&forecast))?,
        Format::Table => print_data(to_text(&forecast).as_bytes())?,
    }
    Ok(if forecast.is_cached() { 0 } else { WOULD_RUN })
}

/// What is written for an outlook, for programs and people.
fn word(outlook: &Outlook) -> &'static str {
    match outlook {
        Outlook::Cached => "cached",
        Outlook::Runs(_) => "runs",
        Outlook::Depends => "depends",
    }
}

fn seconds(forecast: &Forecast) -> f64 {
    let open = forecast.steps.iter().filter(|step| step.outlook != Outlook::Cached);
    open.filter_map(|step| step.last_took).map(|took| took.as_secs_f64()).sum()
}

fn to_json(forecast: &Forecast) -> Value {
    let step = |(number, step): (usize, &ForecastStep)| {
        let miss = match &step.outlook {
            Outlook::Runs(miss) => Some(miss),
            Outlook::Cached | Outlook::Depends => None,
        };
        json!({
            "step": number + 1,
            "stage": step.info.stage,
            "position": step.info.position.map(|(position, of)| [position, of]),
            "platform": step.info.platform.as_ref().map(ToString::to_string),
            "name": step.info.name,
            "outlook": word(&step.outlook),
            "miss": miss.map(ToString::to_string),
            "causes": miss,
            "last_seconds": step.last_took.map(|took| took.as_secs_f64()),
        })
    };
    let steps: Vec<Value> = forecast.steps.iter().enumerate().map(step).collect();
    json!({ "cached": forecast.is_cached(), "last_seconds": seconds(forecast), "steps": steps })
}

fn to_text(forecast: &Forecast) -> String {
    let row = |(number, step): (usize, &ForecastStep)| {
        let why = match &step.outlook {
            Outlook::Cached => String::new(),
            Outlook::Runs(miss) => visible(&miss.to_string()),
            Outlook::Depends => "depends on an earlier step".to_owned(),
        };
        let took = step.last_took.filter(|_| step.outlook != Outlook::Cached).map(duration).unwrap_or_default();
        vec![format!("#{}", number + 1), shorten(&title(&step.info)), word(&step.outlook).to_owned(), took, why]
    };
    let rows: Vec<Vec<String>> = forecast.steps.iter().enumerate().map(row).collect();
    let of = |wanted: &str| forecast.steps.iter().filter(|step| word(&step.outlook) == wanted).count();
    let mut text = if rows.is_empty() { String::new() } else { table(&["#", "STEP", "", "TOOK", "WHY"], &rows) };
    let all = count(forecast.steps.len(), "step");
    text.push_str(&if forecast.is_cached() {
        format!("{all}, all cached\n")
    } else {
        let last = std::time::Duration::try_from_secs_f64(seconds(forecast)).unwrap_or_default();
        let last = if last.is_zero() { String::new() } else { format!("; the last time they took {}", duration(last)) };
        format!(
            "{all}: cached {}, would run {}, depending on those {}{last}\n",
            of("cached"),
            of("runs"),
            of("depends")
        )
    });
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rbuild_core::progress::{MissCause, StepInfo};

    use super::*;

    #[test]
    fn plans_are_tables() {
        let step = |number, name: &str, outlook, took| ForecastStep {
            info: StepInfo {
                stage: "build".to_owned(),
                position: Some((number, 3)),
                name: name.to_owned(),
                span: None,
                platform: None,
            },
            outlook,
            last_took: Some(Duration::from_millis(took)),
        };
        let mut plan = Forecast {
            steps: vec![
                step(1, "WORKDIR /src", Outlook::Cached, 0),
                step(2, "COPY . .", Outlook::Runs(MissCause::NeverBuilt.into()), 100),
                step(3, "RUN make", Outlook::Depends, 61_000),
            ],
        };
        let text = to_text(&plan);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1].join(" "), "#1 [build 1/3] WORKDIR /src cached");
        assert_eq!(lines[2].join(" "), "#2 [build 2/3] COPY . . runs 0.1s never built");
        assert_eq!(lines[3].join(" "), "#3 [build 3/3] RUN make depends 1m 01s depends on an earlier step");
        let last = "3 steps: cached 1, would run 1, depending on those 1; the last time they took 1m 01s";
        assert_eq!(lines[4].join(" "), last);
        assert_eq!(to_json(&plan)["steps"][1]["causes"][0]["cause"], "never-built");
        plan.steps.truncate(1);
        assert!(to_text(&plan).ends_with("1 step, all cached\n"));
    }
}
