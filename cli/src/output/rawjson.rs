//! Progress for programs: one JSON object on each line of standard error. `docs/cli.md` describes the fields.

use std::io::Write;

use rbuild_core::progress::{Event, StepEnd, StepInfo, Stream};
use serde_json::{Value, json};

use super::{Clock, Source};

/// The renderer.
pub(super) struct RawJson {
    writer: Box<dyn Write + Send>,
    clock: Clock,
    source: Option<Source>,
}

impl RawJson {
    pub(super) fn new(writer: Box<dyn Write + Send>, clock: Clock) -> Self {
        Self { writer, clock, source: None }
    }

    pub(super) fn set_source(&mut self, source: Source) {
        self.source = Some(source);
    }

    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Planned { steps } => {
                let steps: Vec<Value> = steps.iter().enumerate().map(|(id, step)| self.step(id, step)).collect();
                self.object("planned", json!({ "steps": steps }));
            }
            Event::StepStarted { step, miss } => {
                self.object(
                    "step-started",
                    json!({ "step": step.0, "miss": miss.as_ref().map(ToString::to_string), "causes": miss }),
                );
            }
            Event::Output { step, stream, line } => {
                let stream = match stream {
                    Stream::Stdout => "stdout",
                    Stream::Stderr => "stderr",
                };
                let mut value = json!({ "step": step.0, "stream": stream });
                // What is no UTF-8 is given as numbers, so that nothing is lost.
                match str::from_utf8(line) {
                    Ok(text) => value["line"] = json!(text),
                    Err(_) => value["bytes"] = json!(line),
                }
                self.object("output", value);
            }
            Event::StepEnded { step, end, took } => {
                let end = match end {
                    StepEnd::Cached => "cached",
                    StepEnd::Done => "done",
                    StepEnd::Unchanged => "unchanged",
                    StepEnd::Failed => "failed",
                    StepEnd::Cancelled => "cancelled",
                };
                self.object("step-ended", json!({ "step": step.0, "end": end, "seconds": took.as_secs_f64() }));
            }
            Event::Transfer { what, done, total } => {
                self.object("transfer", json!({ "what": what, "done_bytes": done, "total_bytes": total }));
            }
            Event::Warning(warning) => {
                let span = warning.span.as_ref();
                let value = json!({
                    "rule": warning.rule, "message": warning.message, "help": warning.help,
                    "line": span.and_then(|span| self.source.as_ref().map(|source| source.line(span.start))),
                    "span": span.map(|span| [span.start, span.end]),
                });
                self.object("warning", value);
            }
            Event::Note(note) => self.object("note", json!({ "message": note })),
            Event::Built { manifest, config } => {
                self.object("built", json!({ "manifest": manifest.to_string(), "config": config.to_string() }));
            }
            _ => {}
        }
    }

    /// Writes one object; `event` and `at` come before its own fields.
    pub(super) fn object(&mut self, kind: &str, value: Value) {
        let Value::Object(mut fields) = value else { return };
        fields.retain(|_, value| !value.is_null());
        let fields = Value::Object(fields).to_string();
        let at = (self.clock)().as_secs_f64();
        let rest = if fields == "{}" { "}".to_owned() } else { format!(",{}", &fields[1..]) };
        // Standard error is gone: there is nobody left to tell, and the build goes on.
        let _ = writeln!(self.writer, "{{\"event\":{},\"at\":{at}{rest}", json!(kind));
    }

    fn step(&self, id: usize, step: &StepInfo) -> Value {
        let span = step.span.as_ref();
        json!({
            "step": id, "stage": step.stage, "name": step.name,
            "position": step.position.map(|(position, all)| [position, all]),
            "line": span.and_then(|span| self.source.as_ref().map(|source| source.line(span.start))),
            "span": span.map(|span| [span.start, span.end]),
            "platform": step.platform.as_ref().map(ToString::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rbuild_core::progress::StepId;

    use super::super::tests::{Shared, clock, step};
    use super::*;

    #[test]
    fn each_event_is_one_object() {
        let shared = Shared::default();
        let mut rawjson = RawJson::new(Box::new(shared.clone()), clock());
        let output = |line: &[u8]| Event::Output { step: StepId(0), stream: Stream::Stdout, line: line.to_vec() };
        rawjson.show(&Event::Planned { steps: vec![step("a", (1, 2), "RUN x")] });
        rawjson.show(&Event::StepStarted { step: StepId(0), miss: None });
        rawjson.show(&output(b"a\x1b[2J\"b"));
        rawjson.show(&output(b"\xff"));
        rawjson.show(&Event::StepEnded { step: StepId(0), end: StepEnd::Done, took: Duration::from_millis(1500) });
        let lines: Vec<Value> = shared.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["steps"][0]["name"], "RUN x");
        assert_eq!(lines[1], json!({"event": "step-started", "at": 0.5, "step": 0}));
        assert_eq!(lines[2]["line"], "a\x1b[2J\"b");
        assert_eq!(lines[3]["bytes"], json!([255]));
        assert_eq!(lines[4], json!({"event": "step-ended", "at": 1.25, "step": 0, "end": "done", "seconds": 1.5}));
        assert!(shared.text().lines().all(|line| line.starts_with("{\"event\":\"")));
        assert!(!shared.text().contains('\x1b'));
    }
}
