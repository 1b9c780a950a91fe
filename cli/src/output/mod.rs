//! What people and programs see of a build: the events of the core, shown.
//!
//! Progress goes to standard error, whatever its form. Standard output is for data alone: a digest with `-q`, an
//! archive with `-o -`.

mod plain;
mod rawjson;
mod source;
mod text;
mod tty;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rbuild_core::error::FailedStep;
use rbuild_core::oci::Digest;
use rbuild_core::progress::{Event, EventSink, StepEnd, StepId, StepInfo, Warning};

use crate::settings::{Environment, GlobalSettings, Progress};
pub(crate) use source::{Source, lines_of};
pub(crate) use text::{Colours, bytes, count, duration, sanitise, visible};

/// How many of a command's last lines are kept to be shown when it fails.
const TAIL_LINES: usize = 20;

/// Time since the build began.
type Clock = Box<dyn Fn() -> Duration + Send>;

/// How a [`Display`] looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Whether colours are used.
    pub(crate) colours: bool,
    /// Whether letters outside ASCII are used.
    pub(crate) utf8: bool,
    /// Whether notes are shown.
    pub(crate) verbose: bool,
}

impl Style {
    /// The style that the user's settings and terminal ask for.
    pub(crate) fn of(global: &GlobalSettings, environment: &Environment) -> Self {
        Self { colours: global.colours, utf8: environment.is_utf8(), verbose: global.verbose > 0 }
    }

    fn of_output(self) -> Colours {
        if self.colours { Colours::Keep } else { Colours::Drop }
    }

    /// The text in a colour, where colours are used: `code` is the number of an SGR sequence.
    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What is known of the build so far, whatever the form of its display.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    steps: Vec<StepInfo>,
    ends: BTreeMap<StepId, StepEnd>,
    tails: BTreeMap<StepId, VecDeque<Vec<u8>>>,
    /// Warnings in the order they came.
    pub(crate) warnings: Vec<Warning>,
    /// The manifest and the configuration, once the image is whole.
    pub(crate) built: Option<(Digest, Digest)>,
}

impl Tally {
    /// Takes note of an event.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Planned { steps } => self.steps.clone_from(steps),
            Event::Output { step, line, .. } => {
                let tail = self.tails.entry(*step).or_default();
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line.clone());
            }
            Event::StepEnded { step, end, .. } => {
                if matches!(end, StepEnd::Cached | StepEnd::Done | StepEnd::Unchanged) {
                    self.tails.remove(step);
                }
                self.ends.insert(*step, *end);
            }
            Event::Warning(warning) => self.warnings.push(warning.clone()),
            Event::Built { manifest, config } => self.built = Some((*manifest, *config)),
            _ => {}
        }
    }

    /// How many steps there are, and how many of them were cached.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let cached = self.ends.values().filter(|end| **end == StepEnd::Cached).count();
        (self.steps.len().max(self.ends.len()), cached)
    }

    /// The last lines that the command of a step wrote.
    pub(crate) fn tail(&self, step: StepId) -> Vec<Vec<u8>> {
        self.tails.get(&step).map(|tail| tail.iter().cloned().collect()).unwrap_or_default()
    }

    /// The step that an error belongs to, also where it did not begin. Of the same step for several platforms, the one
    /// that failed.
    pub(crate) fn step_of(&self, error: &FailedStep) -> Option<StepId> {
        let same = |step: &StepInfo| (&step.name, &step.stage, &step.span) == (&error.name, &error.stage, &error.span);
        let steps = self.steps.iter().enumerate().filter(|(_, step)| same(step)).map(|(number, _)| StepId(number));
        let failed = |step: &StepId| self.ends.get(step) == Some(&StepEnd::Failed);
        steps.clone().find(failed).or_else(|| steps.clone().next())
    }

    /// What a step is called: `[build 2/5] RUN make`.
    pub(crate) fn title(&self, step: StepId) -> String {
        self.steps.get(step.0).map_or_else(|| format!("step {}", step.0 + 1), title)
    }
}

/// What a step is called: `[build 2/5] RUN make`, `[linux/arm64 build 2/5] RUN make`.
pub(crate) fn title(step: &StepInfo) -> String {
    let mut place: Vec<String> = Vec::new();
    place.extend(step.platform.as_ref().map(ToString::to_string));
    place.extend(Some(&step.stage).filter(|stage| !stage.is_empty()).map(|stage| {
        // A bare number would be read as a count.
        if stage.bytes().all(|byte| byte.is_ascii_digit()) { format!("stage-{stage}") } else { stage.clone() }
    }));
    place.extend(step.position.map(|(position, all)| format!("{position}/{all}")));
    // Lines that were joined leave the blanks that began them.
    let name = visible(&step.name).split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if place.is_empty() { name } else { format!("[{}] {name}", visible(&place.join(" "))) }
}

enum Form {
    Plain(plain::Plain),
    Tty(Box<tty::Tty>),
    Quiet,
    RawJson(rawjson::RawJson),
}

/// Shows a build's events in one of the forms.
pub(crate) struct Display {
    form: Mutex<Form>,
    tally: Mutex<Tally>,
    started: Instant,
}

impl Display {
    /// A display on standard error.
    pub(crate) fn new(progress: Progress, style: Style) -> Self {
        let started = Instant::now();
        let clock: Clock = Box::new(move || started.elapsed());
        let writer = Box::new(std::io::stderr());
        let form = match progress {
            Progress::Plain => Form::Plain(plain::Plain::new(writer, clock, style)),
            Progress::Tty => Form::Tty(Box::new(tty::Tty::new(style))),
            Progress::Quiet => Form::Quiet,
            Progress::RawJson => Form::RawJson(rawjson::RawJson::new(writer, clock)),
        };
        Self { form: Mutex::new(form), tally: Mutex::new(Tally::default()), started }
    }

    /// Hands over the Dockerfile, so that warnings can name lines.
    pub(crate) fn set_source(&self, source: &Source) {
        match &mut *self.form() {
            Form::Plain(plain) => plain.set_source(source.clone()),
            Form::Tty(tty) => tty.set_source(source.clone()),
            Form::RawJson(rawjson) => rawjson.set_source(source.clone()),
            Form::Quiet => {}
        }
    }

    /// Takes live parts off the screen; what is printed afterwards stands below what was shown.
    pub(crate) fn finish(&self) {
        if let Form::Tty(tty) = &mut *self.form() {
            tty.finish();
        }
    }

    /// Writes one JSON object as a line of `rawjson`; does nothing in the other forms. Says whether it did.
    pub(crate) fn json(&self, kind: &str, value: serde_json::Value) -> bool {
        match &mut *self.form() {
            Form::RawJson(rawjson) => {
                rawjson.object(kind, value);
                true
            }
            _ => false,
        }
    }

    /// Prints lines for people: the summary of a build. Does nothing where none are wanted.
    pub(crate) fn say(&self, lines: &[String]) {
        if matches!(*self.form(), Form::Plain(_) | Form::Tty(_)) {
            let mut stderr = std::io::stderr().lock();
            for line in lines {
                // Standard error is gone: there is nobody left to tell.
                let _ = writeln!(stderr, "{line}");
            }
        }
    }

    /// What is known so far.
    pub(crate) fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().expect("no thread panics while it holds the tally")
    }

    /// Time since the display was made.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn form(&self) -> std::sync::MutexGuard<'_, Form> {
        self.form.lock().expect("no thread panics while it draws")
    }
}

impl EventSink for Display {
    fn event(&self, event: Event) {
        self.tally().take(&event);
        match &mut *self.form() {
            Form::Plain(plain) => plain.show(&event),
            Form::Tty(tty) => tty.show(&event),
            Form::RawJson(rawjson) => rawjson.show(&event),
            Form::Quiet => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rbuild_core::oci::Platform;

    use super::*;

    /// A writer that a test can look into.
    #[derive(Clone, Default)]
    pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A clock that goes on by a quarter of a second each time it is read.
    pub(super) fn clock() -> Clock {
        let ticks = std::cell::Cell::new(0);
        Box::new(move || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(250 * ticks.get())
        })
    }

    pub(super) fn step(stage: &str, position: (usize, usize), name: &str) -> StepInfo {
        StepInfo {
            stage: stage.to_owned(),
            position: Some(position),
            name: name.to_owned(),
            span: None,
            platform: None,
        }
    }

    #[test]
    fn titles_say_where_a_step_is() {
        let mut one = step("build", (2, 5), "RUN make\u{7}");
        assert_eq!(title(&one), "[build 2/5] RUN make\\x07");
        one.platform = Some(Platform::new("linux", "arm64", ""));
        assert_eq!(title(&one), "[linux/arm64 build 2/5] RUN make\\x07");
        assert_eq!(title(&step("", (1, 1), "RUN a   &&  b")), "[1/1] RUN a && b");
        one = StepInfo { stage: String::new(), position: None, ..step("", (1, 1), "load context") };
        assert_eq!(title(&one), "load context");
    }

    #[test]
    fn tally_keeps_the_last_lines_of_what_failed() {
        let mut tally = Tally::default();
        for number in 0..30 {
            let line = format!("{number}").into_bytes();
            tally.take(&Event::Output { step: StepId(0), stream: rbuild_core::progress::Stream::Stdout, line });
        }
        tally.take(&Event::StepEnded { step: StepId(0), end: StepEnd::Failed, took: Duration::ZERO });
        let tail = tally.tail(StepId(0));
        assert_eq!((tail.len(), tail[0].as_slice()), (20, &b"10"[..]));
    }

    #[test]
    fn an_error_belongs_to_its_own_step_whatever_else_failed() {
        let mut tally = Tally::default();
        let steps = vec![step("a", (1, 1), "RUN x"), step("b", (1, 1), "RUN y"), step("b", (1, 1), "RUN y")];
        let error = |name: &str, stage: &str| FailedStep {
            name: name.into(),
            stage: stage.into(),
            span: steps[0].span.clone(),
        };
        let (first, second, other) = (error("RUN x", "a"), error("RUN y", "b"), error("RUN z", "b"));
        tally.take(&Event::Planned { steps: steps.clone() });
        let of = |tally: &Tally| [&first, &second, &other].map(|error| tally.step_of(error));
        assert_eq!(of(&tally), [Some(StepId(0)), Some(StepId(1)), None], "none began");
        for failed in [0, 2] {
            let end = StepEnd::Failed;
            tally.take(&Event::StepEnded { step: StepId(failed), end, took: Duration::ZERO });
        }
        assert_eq!(of(&tally), [Some(StepId(0)), Some(StepId(2)), None], "the same step of another platform failed");
    }
}
