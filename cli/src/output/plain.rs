//! Progress as lines, for logs: nothing is ever taken back, and every line says which step it belongs to.
//!
//! ```text
//! #3 [build 2/5] RUN make
//! #3 not cached: content of `src/a.c`
//! #3 0.412 cc -c a.c
//! #3 DONE 1.2s
//! ```
//!
//! The prefix keeps a command from writing lines that a program reading the log would take for its own.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use rbuild_core::progress::{Event, StepEnd, StepId, StepInfo, Warning};

use super::{Clock, Source, Style, bytes, duration, sanitise, title, visible};

/// How often a transfer that goes on is mentioned.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(5);

struct Begun {
    at: Duration,
}

/// The renderer.
pub(super) struct Plain {
    writer: Box<dyn Write + Send>,
    clock: Clock,
    style: Style,
    source: Option<Source>,
    steps: Vec<StepInfo>,
    begun: BTreeMap<StepId, Begun>,
    transfers: BTreeMap<String, Duration>,
}

impl Plain {
    pub(super) fn new(writer: Box<dyn Write + Send>, clock: Clock, style: Style) -> Self {
        Self {
            writer,
            clock,
            style,
            source: None,
            steps: Vec::new(),
            begun: BTreeMap::new(),
            transfers: BTreeMap::new(),
        }
    }

    pub(super) fn set_source(&mut self, source: Source) {
        self.source = Some(source);
    }

    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Planned { steps } => self.steps.clone_from(steps),
            Event::StepStarted { step, miss } => {
                self.begin(*step);
                if let Some(miss) = miss {
                    let text = self.style.paint("2", &format!("not cached: {}", visible(&miss.to_string())));
                    self.line(&format!("#{} {text}", step.0 + 1));
                }
            }
            Event::Output { step, line, .. } => self.output(*step, line),
            Event::StepEnded { step, end, took } => self.end(*step, end, *took),
            Event::Transfer { what, done, total } => self.transfer(what, *done, *total),
            Event::Warning(warning) => self.warning(warning),
            Event::Note(note) if self.style.verbose => self.line(&format!("note: {}", visible(note))),
            _ => {}
        }
    }

    fn line(&mut self, line: &str) {
        // Standard error is gone: there is nobody left to tell, and the build goes on.
        let _ = writeln!(self.writer, "{line}");
    }

    fn begin(&mut self, step: StepId) -> Duration {
        if let Some(begun) = self.begun.get(&step) {
            return begun.at;
        }
        let at = (self.clock)();
        self.begun.insert(step, Begun { at });
        let title = self.steps.get(step.0).map(title).unwrap_or_default();
        let title = self.style.paint("1", &title);
        self.line(&format!("#{} {title}", step.0 + 1));
        at
    }

    fn output(&mut self, step: StepId, line: &[u8]) {
        let begun = self.begin(step);
        let at = (self.clock)().saturating_sub(begun).as_secs_f64();
        let text = sanitise(line, self.style.of_output());
        self.line(&format!("#{} {at:.3} {text}", step.0 + 1));
    }

    fn end(&mut self, step: StepId, end: &StepEnd, took: Duration) {
        self.begin(step);
        let text = match end {
            StepEnd::Cached => self.style.paint("36", "CACHED"),
            StepEnd::Done => format!("{} {}", self.style.paint("32", "DONE"), duration(took)),
            StepEnd::Unchanged => {
                format!("{} {}, same result as before", self.style.paint("32", "DONE"), duration(took))
            }
            StepEnd::Failed => format!("{} {}", self.style.paint("1;31", "FAILED"), duration(took)),
            StepEnd::Cancelled => self.style.paint("33", "CANCELLED"),
        };
        self.line(&format!("#{} {text}", step.0 + 1));
    }

    fn transfer(&mut self, what: &str, done: u64, total: Option<u64>) {
        let now = (self.clock)();
        let whole = total == Some(done);
        let last = self.transfers.get(what).copied();
        // Short transfers are mentioned once, when they are done.
        let due = now.saturating_sub(*self.transfers.entry(what.to_owned()).or_insert(now)) >= TRANSFER_INTERVAL;
        if !whole && !due {
            return;
        }
        if whole && last == Some(Duration::MAX) {
            return;
        }
        self.transfers.insert(what.to_owned(), if whole { Duration::MAX } else { now });
        let of = total.filter(|_| !whole).map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
        self.line(&format!("{} {}{of}", visible(what), bytes(done)));
    }

    fn warning(&mut self, warning: &Warning) {
        for line in warning_lines(warning, self.source.as_ref(), self.style) {
            self.line(&line);
        }
    }
}

/// A warning as lines: the message with its rule and place, then what to do.
pub(super) fn warning_lines(warning: &Warning, source: Option<&Source>, style: Style) -> Vec<String> {
    let place = match (source, &warning.span) {
        (Some(source), Some(span)) => format!("{}: ", source.place(span)),
        _ => String::new(),
    };
    let rule = if warning.rule.is_empty() { String::new() } else { format!(" [{}]", warning.rule) };
    let mut lines = vec![format!("{} {place}{}{rule}", style.paint("33", "warning:"), visible(&warning.message))];
    if !warning.help.is_empty() {
        lines.push(format!("  hint: {}", visible(&warning.help)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use rbuild_core::progress::{MissCause, Stream};
    use snapbox::IntoData;

    use super::super::tests::{Shared, clock, step};
    use super::*;

    fn shown(events: &[Event], style: Style) -> String {
        let shared = Shared::default();
        let mut plain = Plain::new(Box::new(shared.clone()), clock(), style);
        plain.set_source(Source::new("Dockerfile", "FROM base\nRUN make\n"));
        for event in events {
            plain.show(event);
        }
        shared.text()
    }

    fn ended(step: usize, end: StepEnd, milliseconds: u64) -> Event {
        Event::StepEnded { step: StepId(step), end, took: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn lines_tell_the_whole_build() {
        let output =
            |step, line: &[u8]| Event::Output { step: StepId(step), stream: Stream::Stderr, line: line.to_vec() };
        let events = [
            Event::Planned {
                steps: vec![
                    step("build", (1, 3), "FROM base"),
                    step("build", (2, 3), "COPY . ."),
                    step("build", (3, 3), "RUN make"),
                ],
            },
            ended(0, StepEnd::Cached, 0),
            Event::StepStarted { step: StepId(1), miss: Some(MissCause::EarlierStep.into()) },
            Event::StepStarted { step: StepId(2), miss: None },
            output(2, b"::set-env name=x::\x1b[31mred"),
            ended(1, StepEnd::Unchanged, 120),
            output(2, b"10%\r100%"),
            Event::Warning(Warning {
                rule: "WorkdirRelativePath".to_owned(),
                message: "a relative path".to_owned(),
                help: "begin it with `/`".to_owned(),
                span: Some(10..18),
            }),
            Event::Note("isolation a".to_owned()),
            ended(2, StepEnd::Failed, 1240),
        ];
        let style = Style { colours: false, utf8: true, verbose: false };
        snapbox::assert_data_eq!(
            shown(&events, style),
            snapbox::str![[r#"
#1 [build 1/3] FROM base
#1 CACHED
#2 [build 2/3] COPY . .
#2 not cached: an earlier step gave another result
#3 [build 3/3] RUN make
#3 0.250 ::set-env name=x::red
#2 DONE 0.1s, same result as before
#3 0.500 100%
warning: Dockerfile:2: a relative path [WorkdirRelativePath]
  hint: begin it with `/`
#3 FAILED 1.2s

"#]]
            .raw()
        );
    }

    #[test]
    fn notes_are_for_the_curious() {
        let style = Style { colours: false, utf8: true, verbose: true };
        assert_eq!(shown(&[Event::Note("isolation a".to_owned())], style), "note: isolation a\n");
    }

    #[test]
    fn transfers_are_mentioned_now_and_then() {
        let style = Style { colours: false, utf8: true, verbose: false };
        let transfer = |done| Event::Transfer { what: "layer".to_owned(), done, total: Some(30_000) };
        let mut events: Vec<Event> = (0..30).map(|part| transfer(part * 1000)).collect();
        events.extend([transfer(30_000), transfer(30_000)]);
        assert_eq!(shown(&events, style), "layer 20.0 kB of 30.0 kB\nlayer 30.0 kB\n");
    }
}
