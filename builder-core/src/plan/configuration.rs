//! Instructions that change nothing but the image's configuration, and the variables that others see.

use std::collections::BTreeSet;

use rbuild_dockerfile::instruction::{Arg, CommandLine, Healthcheck as HealthcheckInstruction, KeyValue};
use rbuild_dockerfile::port::parse_port;
use rbuild_dockerfile::signal::{nearest_signal, parse_signal};
use rbuild_dockerfile::word::expand_words;
use rbuild_dockerfile::{Word, history};
use serde_json::Value;

use super::error::{PlanError, PlanErrors, code, each};
use super::stage::Walk;
use super::variables::set_text;
use crate::oci::Healthcheck;

/// Build arguments that no command and no expansion sees: they tell a scanner what to look at.
const ARGS_WITHOUT_VALUE: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Walk<'_> {
    pub(super) fn arg(&mut self, arg: &Arg) -> Result<(), PlanError> {
        let mut shown = Vec::new();
        for declaration in &arg.declarations {
            let name = &declaration.name.text;
            let value = match (self.options.build_args.get(name), &declaration.default) {
                // A default that is not needed is not expanded, so it can't fail.
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expanded(default)?),
                (None, None) => self.global(name),
            };
            if let Some(value) = value.as_ref().filter(|_| !ARGS_WITHOUT_VALUE.contains(&name.as_str())) {
                self.state.variables.set(name, value);
            }
            self.state.declared.push((name.clone(), value.clone()));
            self.state.plan.declared_args.insert(name.clone(), value.clone());
            shown.push((name.clone(), value));
        }
        self.history(history::arg(&shown), true);
        Ok(())
    }

    /// The declared build arguments, as RUN's history shows them: the first place and the last value of each.
    pub(super) fn declared_args(&self) -> Vec<(String, String)> {
        let mut seen = BTreeSet::new();
        let first = self.state.declared.iter().filter(|(name, _)| seen.insert(name));
        let value = |(name, own): &(String, Option<String>)| {
            let seen = self.state.variables.value(name).or(own.as_deref());
            (name.clone(), seen.unwrap_or_default().to_owned())
        };
        first.map(value).collect()
    }

    /// Keys and values, all expanded with the variables from before the instruction.
    fn pairs(&self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, PlanErrors> {
        each(pairs, |pair| Ok((self.expanded(&pair.key)?, self.expanded(&pair.value)?)))
    }

    pub(super) fn env(&mut self, pairs: &[KeyValue]) -> Result<(), PlanErrors> {
        let pairs = self.pairs(pairs)?;
        for (name, value) in &pairs {
            self.state.variables.set_env(name, value);
            set_text(&mut self.config().env, name, value);
        }
        self.history(history::pairs("ENV", &pairs), true);
        Ok(())
    }

    pub(super) fn label(&mut self, pairs: &[KeyValue]) -> Result<(), PlanErrors> {
        let pairs = self.pairs(pairs)?;
        self.history(history::pairs("LABEL", &pairs), true);
        self.config().labels.extend(pairs);
        Ok(())
    }

    pub(super) fn cmd(&mut self, command: &CommandLine) {
        let arguments = command.arguments(&self.shell_unless(!command.is_shell()));
        self.history(history::command("CMD", &arguments), true);
        self.config().cmd = Some(arguments);
        self.config().args_escaped = true;
        self.command_set = true;
    }

    pub(super) fn entrypoint(&mut self, command: &CommandLine) {
        let arguments = command.arguments(&self.shell_unless(!command.is_shell()));
        self.history(history::command("ENTRYPOINT", &arguments), true);
        self.config().entrypoint = Some(arguments);
        if !self.command_set {
            self.config().cmd = None;
        }
    }

    pub(super) fn expose(&mut self, words: &[Word]) -> Result<(), PlanErrors> {
        let ports = each(words, |word| {
            let mut ports = Vec::new();
            let expanded = expand_words(&word.text, self.escape, &self.lookup())
                .map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), word.span))?;
            for text in &expanded.words {
                let spec = parse_port(text).map_err(|e| PlanError::new(code::PORT, e.to_string(), word.span))?;
                ports.extend(spec.keys());
            }
            Ok(ports)
        })?;
        let ports = ports.concat();
        let empty = || Value::Object(serde_json::Map::new());
        self.config().exposed_ports.extend(ports.iter().map(|port| (port.clone(), empty())));
        self.history(history::list("EXPOSE", &ports), true);
        Ok(())
    }

    pub(super) fn volume(&mut self, words: &[Word]) -> Result<(), PlanErrors> {
        let paths = each(words, |word| {
            let path = self.expanded(word)?;
            match path.is_empty() {
                true => {
                    let message = "VOLUME specified can not be an empty string";
                    Err(PlanError::new(code::EMPTY_VOLUME, message, word.span))
                }
                false => Ok(path),
            }
        })?;
        let empty = || Value::Object(serde_json::Map::new());
        self.config().volumes.extend(paths.iter().map(|path| (path.clone(), empty())));
        self.history(history::list("VOLUME", &paths), true);
        Ok(())
    }

    pub(super) fn stopsignal(&mut self, word: &Word) -> Result<(), PlanError> {
        let signal = self.expanded(word)?;
        parse_signal(&signal).map_err(|error| {
            let known = nearest_signal(&signal).map_or_else(String::new, |name| format!("did you mean `{name}`?"));
            PlanError::new(code::SIGNAL, error.to_string(), word.span).with_help(known)
        })?;
        self.history(format!("STOPSIGNAL {signal}"), true);
        self.config().stop_signal = signal;
        Ok(())
    }

    pub(super) fn healthcheck(&mut self, healthcheck: &HealthcheckInstruction) {
        let nanoseconds = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let mut check = Healthcheck { test: healthcheck.test(), ..Healthcheck::default() };
        if let HealthcheckInstruction::Command(command) = healthcheck {
            check.interval = nanoseconds(command.interval);
            check.timeout = nanoseconds(command.timeout);
            check.start_period = nanoseconds(command.start_period);
            check.start_interval = nanoseconds(command.start_interval);
            check.retries = i64::from(command.retries);
        }
        self.config().healthcheck = Some(check);
        self.history(history::healthcheck(healthcheck), true);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use crate::oci::Platform;
    use crate::plan::{NetworkChoice, Outcome, PlanOptions, PlatformChoice, plan};

    /// The history of a Dockerfile's last stage.
    fn history(text: &str) -> Vec<String> {
        let (dockerfile, diagnostics) = rbuild_dockerfile::parse(text);
        assert!(!diagnostics.has_errors(), "{diagnostics:?}");
        let options = PlanOptions {
            build_args: BTreeMap::from([("GIVEN".to_owned(), "flag".to_owned())]),
            target: None,
            platform: Platform::new("linux", "amd64", ""),
            platform_choice: PlatformChoice::Machine,
            build_platform: Platform::new("linux", "amd64", ""),
            named_contexts: BTreeSet::new(),
            labels: BTreeMap::new(),
            network: NetworkChoice::Default,
            source_date_epoch: None,
        };
        let Outcome::Plan(plan) = plan(&dockerfile, &options, &BTreeMap::new()).unwrap() else {
            panic!("a stage from scratch needs nothing")
        };
        plan.stages.last().unwrap().history.iter().map(|entry| entry.created_by.clone()).collect()
    }

    #[test]
    fn history_has_buildkit_s_texts() {
        for (instruction, text) in [
            ("ARG A=1 B GIVEN=own", "ARG A=1 B GIVEN=flag"),
            ("ARG TARGETARCH", "ARG TARGETARCH=amd64"),
            ("ENV a b c", "ENV a=b c"),
            ("LABEL a=1 b=\"c d\"", "LABEL a=1 b=c d"),
            ("CMD echo \"hi\"", "CMD [\"/bin/sh\" \"-c\" \"echo \\\"hi\\\"\"]"),
            ("ENTRYPOINT [\"a\", \"b\"]", "ENTRYPOINT [\"a\" \"b\"]"),
            ("EXPOSE 90-91/UDP 80", "EXPOSE [80/tcp 90/udp 91/udp]"),
            ("VOLUME /a /b", "VOLUME [/a /b]"),
            ("SHELL [\"/bin/ash\", \"-c\"]", "SHELL [/bin/ash -c]"),
            (
                "HEALTHCHECK --interval=90s --retries=3 CMD [\"a\", \"b\"]",
                "HEALTHCHECK {Test:[CMD a b] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
            ),
            ("WORKDIR /a//b/", "WORKDIR /a//b/"),
            ("COPY --chmod=7 a <<EOF /d/\nEOF", "COPY --chmod=7 a <<EOF /d/ # buildkit"),
            ("RUN make", "RUN /bin/sh -c make # buildkit"),
        ] {
            assert_eq!(history(&format!("FROM scratch\n{instruction}\n")), [text], "{instruction}");
        }
        let run = history("FROM scratch\nARG A=1\nARG GIVEN A=2 NONE\nRUN x\n");
        assert_eq!(run[2], "RUN |3 A=2 GIVEN=flag NONE= /bin/sh -c x # buildkit");
    }
}
