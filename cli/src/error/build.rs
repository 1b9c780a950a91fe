//! The core's errors as failures: which kind, which place, which step, what was written last.

use std::error::Error;

use rbuild_core::error::{BuildError, ErrorKind};
use rbuild_dockerfile::{Diagnostic, Diagnostics, Severity};

use super::{Failure, Kind, Place, Problem, causes, heredoc, is_environment};
use crate::output::{Display, Source, Tally};

/// Tells a build's error with what its display has seen.
pub(crate) fn of_build(error: &BuildError, display: &Display) -> Failure {
    failure(error, &display.tally())
}

/// Tells an error of the core that belongs to no build.
pub(crate) fn of_core(error: &BuildError) -> Failure {
    failure(error, &Tally::default())
}

fn failure(error: &BuildError, tally: &Tally) -> Failure {
    let source = error.dockerfile.as_ref().map(|(name, text)| Source::new(name, text));
    if let ErrorKind::Dockerfile(diagnostics) = &error.kind {
        return parse_failure(diagnostics, source.as_ref());
    }
    let (kinds, problems): (Vec<Kind>, Vec<Problem>) =
        error.parts().iter().map(|part| problem(part, source.as_ref(), tally)).unzip();
    // Where not all are of one kind, the Dockerfile is where to begin.
    let kind = kinds.first().copied().filter(|first| kinds.iter().all(|kind| kind == first)).unwrap_or(Kind::Build);
    Failure { kind, problems }
}

/// One error, and whose fault it is.
fn problem(error: &BuildError, source: Option<&Source>, tally: &Tally) -> (Kind, Problem) {
    let mut problem = Problem::new(error.to_string());
    problem.causes = causes(error.source());
    problem.hints.extend(Some(error.help().to_owned()).filter(|help| !help.is_empty()));
    let step = error.step.as_ref().and_then(|step| tally.step_of(step));
    if let ErrorKind::Plan { code, .. } = &error.kind {
        problem.code = (*code).to_owned();
    }
    let kind = match &error.kind {
        ErrorKind::Command { code, output, .. } => {
            problem.output = match step {
                Some(step) => tally.tail(step),
                None => output.iter().map(|line| line.clone().into_bytes()).collect(),
            };
            Kind::Command(*code)
        }
        ErrorKind::Usage { .. } => Kind::Usage,
        ErrorKind::NotCached { .. } => Kind::NotCached,
        ErrorKind::Failed { cause, .. } if is_environment(&**cause) => Kind::Environment,
        _ => Kind::Build,
    };
    problem.step = error.step.as_ref().map(|failed| step.map_or_else(|| failed.name.clone(), |step| tally.title(step)));
    if let (Some(source), Some(span)) = (source, error.span()) {
        let (span, label) = match heredoc::line_of(&source.text, &span, &problem.output) {
            Some(span) => (span, "the shell's last message is about this line".to_owned()),
            None => (span, String::new()),
        };
        problem.place = Some(Place { source: source.clone(), span, label });
    }
    (kind, problem)
}

/// Tells the errors of a text that was parsed without being built.
pub(crate) fn of_diagnostics(diagnostics: &Diagnostics, source: &Source) -> Failure {
    let list: Vec<_> = diagnostics.iter().cloned().collect();
    parse_failure(&list, Some(source))
}

/// All errors of the text, in its order; warnings were told as events.
fn parse_failure(diagnostics: &[Diagnostic], source: Option<&Source>) -> Failure {
    let mut errors: Vec<_> = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).collect();
    errors.sort_by_key(|diagnostic| diagnostic.span.start);
    let problems = errors.iter().map(|diagnostic| of_diagnostic(diagnostic, source)).collect();
    Failure { kind: Kind::Build, problems }
}

/// One error of the text. Its line is in the message too, because people search logs for it.
pub(crate) fn of_diagnostic(diagnostic: &Diagnostic, source: Option<&Source>) -> Problem {
    let message = match source {
        Some(source) => format!("line {}: {}", source.line(diagnostic.span.start), diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let mut problem = Problem::new(message);
    problem.code = diagnostic.code.to_owned();
    problem.hints.extend(diagnostic.help.clone());
    problem.place =
        source.map(|source| Place { source: source.clone(), span: diagnostic.span.range(), label: String::new() });
    problem
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rbuild_core::error::FailedStep;
    use rbuild_core::progress::{Event, StepEnd, StepId, StepInfo, Stream};

    use super::*;

    const TEXT: &str = "FROM base AS app\nRUN make\n";

    fn tally() -> Tally {
        let step = StepInfo {
            stage: "app".to_owned(),
            position: Some((2, 2)),
            name: "RUN make".to_owned(),
            span: Some(17..25),
            platform: None,
        };
        let mut tally = Tally::default();
        tally.take(&Event::Planned { steps: vec![step] });
        tally.take(&Event::Output { step: StepId(0), stream: Stream::Stderr, line: b"no rule".to_vec() });
        tally.take(&Event::StepEnded { step: StepId(0), end: StepEnd::Failed, took: Duration::ZERO });
        tally
    }

    fn error(kind: ErrorKind) -> BuildError {
        let step = FailedStep { name: "RUN make".to_owned(), stage: "app".to_owned(), span: Some(17..25) };
        BuildError { kind, step: Some(step), place: None, dockerfile: Some(("Dockerfile".to_owned(), TEXT.to_owned())) }
    }

    #[test]
    fn command_s_failure_has_its_step_and_output() {
        let kind = ErrorKind::Command { code: 7, signal: None, output: Vec::new(), help: "look".to_owned() };
        let failure = failure(&error(kind), &tally());
        assert_eq!(failure.status(), 7);
        let problem = &failure.problems[0];
        assert_eq!(problem.message, "the command ended with exit status 7");
        assert_eq!(problem.step.as_deref(), Some("[app 2/2] RUN make"));
        assert_eq!(problem.output, [b"no rule"]);
        assert_eq!(problem.hints, ["look"]);
        assert_eq!(problem.place.as_ref().map(|place| place.span.clone()), Some(17..25));
    }

    #[test]
    fn full_disk_is_the_machine_s_fault() {
        let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = failure(&BuildError::failed("write a layer", cause), &tally());
        assert_eq!(
            (failure.kind, failure.problems[0].message.as_str()),
            (Kind::Environment, "could not write a layer")
        );
    }

    #[test]
    fn errors_of_the_text_come_in_its_order() {
        let text = "FROM a\nFETCH x\nSHOUT\n";
        let (_, diagnostics) = rbuild_dockerfile::parse(text);
        let mut found: Vec<_> = diagnostics.into_iter().collect();
        found.reverse();
        let dockerfile = Some(("Dockerfile".to_owned(), text.to_owned()));
        let failure = failure(&BuildError { dockerfile, ..error(ErrorKind::Dockerfile(found)) }, &Tally::default());
        let messages: Vec<_> = failure.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages[0].starts_with("line 2: ") && messages[0].contains("FETCH"), "{messages:?}");
        assert_eq!(failure.status(), 1);
    }
}
