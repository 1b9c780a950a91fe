//! `rbuild build`: settings to the core's options, the build, and what is told and written afterwards.

mod calls;
mod describe;
mod inputs;
mod options;
mod report;

use std::sync::Arc;

use rbuild_core::exec::{
    BaseLookup, BuildOptions, Cancel, CheckOptions, CheckResult, RuleSet, build, check, tell_damage,
};
use rbuild_core::progress::{Event, EventSink, Events, Warning};

use super::namespace::Namespace;
use super::{namespace, stored};
use crate::args::BuildArgs;
use crate::error::{Failure, Kind, Problem, of_build, of_diagnostics};
use crate::output::{Display, Source, Style};
use crate::settings::{BuildSettings, Call, Environment, GlobalSettings, Progress};
use crate::signals::Stop;

/// Builds; gives the exit status.
pub(super) fn run(args: &BuildArgs, global: &GlobalSettings, environment: &Environment) -> Result<u8, Failure> {
    let settings = BuildSettings::new(args, environment)?;
    // Before the first thread: a process with several cannot enter a user namespace.
    let Namespace { note, refusal } = namespace::enter(environment)?;
    let stop = Stop::listen()?;
    let display = Arc::new(Display::new(settings.progress, Style::of(global, environment)));
    display.event(Event::Note(note));
    for message in &settings.warnings {
        display.event(Event::Warning(warning(message)));
    }
    let result = build_image(&settings, global, environment, &stop, &display);
    display.finish();
    let result = result.map_err(|failure| stop.failure().unwrap_or_else(|| explained(failure, refusal)));
    match &result {
        Err(failure) if display.json("error", failure.to_json()) => Ok(failure.status()),
        _ => result,
    }
}

/// Tells that there is no user namespace, and why, where a step failed for want of one.
fn explained(mut failure: Failure, refusal: Option<Failure>) -> Failure {
    let machine = matches!(failure.kind, Kind::Build | Kind::Environment);
    let ran = |problem: &Problem| problem.step.as_ref().is_some_and(|step| step.contains("RUN "));
    let forbidden = |problem: &Problem| problem.causes.iter().any(|cause| cause.starts_with("Operation not permitted"));
    let problem = failure.problems.last_mut().filter(|problem| machine && ran(problem) && forbidden(problem));
    if let (Some(refusal), Some(problem)) = (refusal, problem) {
        failure.kind = Kind::Environment;
        problem.message = "this machine gives RUN steps no namespaces".to_owned();
        problem.causes.clear();
        for cause in refusal.problems {
            problem.causes.push(cause.message);
            problem.causes.extend(cause.causes);
            problem.hints.extend(cause.hints);
        }
    }
    failure
}

fn warning(message: &str) -> Warning {
    Warning { rule: String::new(), message: message.to_owned(), help: String::new(), span: None }
}

/// Looks at the Dockerfile of a build by all rules, with what this machine knows of base images.
pub(super) fn look(
    settings: &BuildSettings,
    global: &GlobalSettings,
    environment: &Environment,
) -> Result<CheckResult, Failure> {
    let Prepared { options, events, display, stop, _inputs } = prepare(settings, global, environment)?;
    let wanted = CheckOptions { rules: RuleSet::All, bases: BaseLookup::Local };
    check(&options, wanted, events, &Cancel::from_flag(stop.flag())).map_err(|error| of_build(&error, &display))
}

/// What the core is told of the settings, with what lives as long as the work.
pub(super) struct Prepared {
    pub(super) options: BuildOptions,
    pub(super) events: Events,
    pub(super) display: Arc<Display>,
    pub(super) stop: Stop,
    _inputs: inputs::Inputs,
}

/// Reads what a build reads before it begins, for commands that look at builds; progress is not shown.
pub(super) fn prepare(
    settings: &BuildSettings,
    global: &GlobalSettings,
    environment: &Environment,
) -> Result<Prepared, Failure> {
    let stop = Stop::listen()?;
    let display = Arc::new(Display::new(Progress::Quiet, Style::of(global, environment)));
    let events: Events = display.clone();
    let store = stored::open(global)?;
    let inputs = inputs::read(settings, &store, environment)?;
    let outputs = options::Outputs::plan(settings, &store)?;
    let options = options::of(settings, global, environment, &inputs, &outputs, &stop, &events)?;
    Ok(Prepared { options, events, display, stop, _inputs: inputs })
}

/// Prints what was asked for in place of a build; gives the exit status.
fn call(call: Call, checked: &CheckResult, options: &BuildOptions) -> Result<u8, Failure> {
    let file = &checked.dockerfile;
    if let Call::Check { json, ignore_status } = call {
        return report::checked(checked, json, ignore_status);
    }
    if let Call::Describe { json } = call {
        return describe::describe(json).map(|()| 0);
    }
    let (_, diagnostics) = rbuild_dockerfile::parse(file.source());
    if diagnostics.has_errors() {
        let source = Source::new(&checked.name, file.source());
        return Err(of_diagnostics(&diagnostics, &source));
    }
    match call {
        Call::Outline { json } => calls::outline(file, options, json)?,
        Call::Targets { json } => calls::targets(file, json)?,
        Call::Build | Call::Check { .. } | Call::Describe { .. } => unreachable!("they are done elsewhere"),
    }
    Ok(0)
}

fn build_image(
    settings: &BuildSettings,
    global: &GlobalSettings,
    environment: &Environment,
    stop: &Stop,
    display: &Arc<Display>,
) -> Result<u8, Failure> {
    let events: Events = display.clone();
    let store = stored::open(global)?;
    tell_damage(&store, &events);
    let inputs = inputs::read(settings, &store, environment)?;
    if let Some(source) = inputs.source() {
        display.set_source(&source);
    }
    let outputs = options::Outputs::plan(settings, &store)?;
    let options = options::of(settings, global, environment, &inputs, &outputs, stop, &events)?;
    let cancel = Cancel::from_flag(stop.flag());
    if settings.call != Call::Build {
        // What can be read off the text alone asks no registry.
        let asks = matches!(settings.call, Call::Check { .. });
        let bases = if asks { BaseLookup::Anywhere } else { BaseLookup::Local };
        let checked = check(&options, CheckOptions { rules: RuleSet::BuildKit, bases }, events, &cancel);
        display.finish();
        return call(settings.call, &checked.map_err(|error| of_build(&error, display))?, &options);
    }
    let built = build(&options, events, &cancel).map_err(|error| of_build(&error, display))?;
    // What is printed from here on stands below what was drawn.
    display.finish();
    outputs.deliver(environment)?;
    report::write(settings, &options, &built, display)?;
    Ok(0)
}
