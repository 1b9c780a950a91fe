//! One stage: from its instructions and the configuration of its base to steps and a final configuration.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::instruction::{Arg, Healthcheck as HealthcheckInstruction, KeyValue};
use rbuild_dockerfile::port::parse_port;
use rbuild_dockerfile::signal::{nearest_signal, parse_signal};
use rbuild_dockerfile::word::{expand, expand_words};
use rbuild_dockerfile::{Dockerfile, Heredoc, Instruction, Span, Stage, Word, parse_trigger};
use serde_json::{Value, json};

use super::error::PlanError;
use super::graph::PlanOptions;
use super::step::{Action, Origin, Source, StageIndex, StagePlan, Step, UsedVariable};
use super::variables::{DEFAULT_PATH, Variables, set_text};
use crate::oci::{Healthcheck, History, ImageConfig, Platform};

/// What BuildKit writes into the history's comment; tools tell by it which entries a Dockerfile made.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// The shell of shell-form instructions where SHELL says nothing.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Finds the tree that a name of `--from` stands for.
pub(super) type ResolveSource<'a> = dyn Fn(&str, Span) -> Result<Source, PlanError> + 'a;

/// A stage while its instructions are walked, and what a stage built on it goes on with.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) plan: StagePlan,
    /// ENV and ARG together: what is expanded, and the environment of RUN.
    pub(super) variables: Variables,
    /// Declared build arguments in order, for RUN's history text.
    declared: Vec<String>,
}

impl StageState {
    fn new(config: ImageConfig, platform: &Platform) -> Self {
        let variables = Variables::from_texts(&config.config.env);
        Self {
            plan: StagePlan {
                index: StageIndex(0),
                name: String::new(),
                base: Source::Scratch,
                platform: platform.clone(),
                steps: Vec::new(),
                config,
                history: Vec::new(),
                declared_args: BTreeMap::new(),
            },
            variables,
            declared: Vec::new(),
        }
    }

    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig::empty(platform);
        config.config.working_dir = "/".to_owned();
        Self::new(config, platform)
    }

    pub(super) fn from_image(config: &ImageConfig, platform: &Platform) -> Self {
        if config.os.is_empty() && config.architecture.is_empty() {
            return Self::scratch(platform);
        }
        Self::new(config.clone(), &config.platform())
    }

    /// What a stage that starts from this one begins with.
    pub(super) fn child(&self) -> Self {
        let mut child = self.clone();
        child.plan.steps.clear();
        child.plan.history.clear();
        child
    }
}

/// Walks a stage's instructions. With `replaced`, a named context stands in for the stage and nothing is done.
#[expect(
    clippy::too_many_arguments,
    reason = "all of it is what a stage is planned from; a struct would only rename it"
)]
pub(super) fn plan_stage(
    dockerfile: &Dockerfile,
    stage: &Stage,
    index: StageIndex,
    base: &Source,
    platform: &Platform,
    mut state: StageState,
    globals: &Variables,
    options: &PlanOptions,
    replaced: bool,
    resolve: &ResolveSource<'_>,
) -> Result<StageState, PlanError> {
    state.plan.index = index;
    state.plan.name = stage.name.clone().unwrap_or_else(|| index.0.to_string());
    state.plan.base = base.clone();
    let _ = platform;
    let triggers = std::mem::take(&mut state.plan.config.config.on_build);
    if replaced {
        state.plan.config.config.on_build = triggers;
        return Ok(state);
    }
    if !state.plan.config.config.env.iter().any(|v| v.starts_with("PATH=")) {
        state.plan.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        state.variables.set("PATH", DEFAULT_PATH);
    }
    let mut walk = Walk {
        state,
        escape: dockerfile.escape(),
        globals,
        options,
        resolve,
        command_set: false,
        text: String::new(),
        used: RefCell::default(),
    };
    for trigger in &triggers {
        let wrong = |message: String| {
            PlanError::new(format!("the ONBUILD trigger `{trigger}` of the base image: {message}"), stage.base.span)
        };
        let instruction = parse_trigger(trigger)
            .map_err(|d| wrong(d.first_error().map_or_else(String::new, |e| e.message.clone())))?;
        let escape = std::mem::replace(&mut walk.escape, '\\');
        walk.instruction(&instruction, trigger, None)
            .map_err(|e| PlanError { span: Some(stage.base.span), ..wrong(e.message) })?;
        walk.escape = escape;
    }
    for node in dockerfile.stage_nodes(stage) {
        let Some(instruction) = &node.instruction else { continue };
        walk.instruction(instruction, &node.text, Some(node.span.start..node.span.end))?;
    }
    Ok(walk.state)
}

pub(super) struct Walk<'a> {
    pub(super) state: StageState,
    pub(super) escape: char,
    globals: &'a Variables,
    pub(super) options: &'a PlanOptions,
    pub(super) resolve: &'a ResolveSource<'a>,
    /// Whether this stage has had a CMD: an ENTRYPOINT clears only an inherited one.
    command_set: bool,
    /// The instruction that is being looked at.
    text: String,
    /// The variables that were expanded in it so far.
    used: RefCell<BTreeSet<String>>,
}

impl Walk<'_> {
    fn instruction(
        &mut self,
        instruction: &Instruction,
        original: &str,
        span: Option<Range<usize>>,
    ) -> Result<(), PlanError> {
        original.trim().clone_into(&mut self.text);
        self.used.take();
        match instruction {
            Instruction::From(_) => Ok(()),
            Instruction::Arg(arg) => self.arg(arg),
            Instruction::Env(env) => self.env(&env.pairs),
            Instruction::Label(label) => self.label(&label.pairs),
            Instruction::Run(run) => self.run(run, span),
            Instruction::Copy(copy) => self.copy(copy, span),
            Instruction::Add(add) => self.add(add, span),
            Instruction::Workdir(workdir) => self.workdir(&workdir.path, span),
            Instruction::Cmd(cmd) => {
                let arguments = cmd.command.arguments(&self.shell_unless(!cmd.command.is_shell()));
                self.history(format!("CMD {}", json!(arguments)), true);
                self.config().cmd = Some(arguments);
                self.config().args_escaped = true;
                self.command_set = true;
                Ok(())
            }
            Instruction::Entrypoint(entrypoint) => {
                let arguments = entrypoint.command.arguments(&self.shell_unless(!entrypoint.command.is_shell()));
                self.history(format!("ENTRYPOINT {}", json!(arguments)), true);
                self.config().entrypoint = Some(arguments);
                if !self.command_set {
                    self.config().cmd = None;
                }
                Ok(())
            }
            Instruction::Expose(expose) => self.expose(&expose.ports),
            Instruction::Healthcheck(healthcheck) => {
                self.healthcheck(healthcheck, original);
                Ok(())
            }
            Instruction::Maintainer(maintainer) => {
                self.state.plan.config.author.clone_from(&maintainer.author.text);
                self.history(format!("MAINTAINER {}", maintainer.author.text), true);
                Ok(())
            }
            Instruction::Onbuild(onbuild) => {
                self.config().on_build.push(onbuild.expression.clone());
                Ok(())
            }
            Instruction::Shell(shell) => {
                let words: Vec<String> = shell.shell.iter().map(|w| w.text.clone()).collect();
                self.history(format!("SHELL {}", json!(words)), true);
                self.config().shell = words;
                Ok(())
            }
            Instruction::Stopsignal(stop) => {
                let signal = self.expanded(&stop.signal)?;
                parse_signal(&signal).map_err(|error| {
                    let known =
                        nearest_signal(&signal).map_or_else(String::new, |name| format!("did you mean `{name}`?"));
                    PlanError::new(error.to_string(), stop.signal.span).with_help(known)
                })?;
                self.history(format!("STOPSIGNAL {signal}"), true);
                self.config().stop_signal = signal;
                Ok(())
            }
            Instruction::User(user) => {
                let name = self.expanded(&user.user)?;
                self.history(format!("USER {name}"), true);
                self.config().user = name;
                Ok(())
            }
            Instruction::Volume(volume) => self.volume(&volume.paths),
        }
    }

    pub(super) fn config(&mut self) -> &mut crate::oci::ContainerConfig {
        &mut self.state.plan.config.config
    }

    /// Adds an entry to the history; gives its number.
    pub(super) fn history(&mut self, created_by: String, empty_layer: bool) -> usize {
        let history = &mut self.state.plan.history;
        history.push(History { created_by, comment: HISTORY_COMMENT.to_owned(), empty_layer, ..History::default() });
        history.len() - 1
    }

    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| {
            self.used.borrow_mut().insert(name.to_owned());
            self.state.variables.value(name).map(str::to_owned)
        }
    }

    pub(super) fn expanded(&self, word: &Word) -> Result<String, PlanError> {
        expand(&word.text, self.escape, &self.lookup())
            .map(|e| e.text)
            .map_err(|e| PlanError::new(e.to_string(), word.span))
    }

    pub(super) fn expanded_option(&self, word: Option<&Word>) -> Result<Option<String>, PlanError> {
        word.map(|w| self.expanded(w)).transpose()
    }

    pub(super) fn shell(&self) -> Vec<String> {
        let shell = &self.state.plan.config.config.shell;
        if shell.is_empty() { DEFAULT_SHELL.map(str::to_owned).to_vec() } else { shell.clone() }
    }

    fn shell_unless(&self, exec_form: bool) -> Vec<String> {
        if exec_form { Vec::new() } else { self.shell() }
    }

    /// The declared build arguments, as RUN's history shows them: `|2 A=1 B=2 `.
    pub(super) fn declared_text(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for name in &self.state.declared {
            if seen.insert(name) {
                texts.push(format!("{name}={}", self.state.variables.value(name).unwrap_or_default()));
            }
        }
        if texts.is_empty() { String::new() } else { format!("|{} {} ", texts.len(), texts.join(" ")) }
    }

    fn arg(&mut self, arg: &Arg) -> Result<(), PlanError> {
        let mut texts = Vec::new();
        for declaration in &arg.declarations {
            let name = &declaration.name.text;
            let given = self.options.build_args.get(name);
            let default = match (&declaration.default, given) {
                // A default that is not needed is not expanded, so it can't fail.
                (Some(word), None) => Some(self.expanded(word)?),
                (Some(word), Some(_)) => Some(word.text.clone()),
                (None, _) => None,
            };
            texts.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            let value = match (given, default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(default),
                (None, None) => self.globals.value(name).map(str::to_owned),
            };
            if let Some(value) = &value {
                self.state.variables.set(name, value);
            }
            self.state.declared.push(name.clone());
            self.state.plan.declared_args.insert(name.clone(), value);
        }
        self.history(format!("ARG {}", texts.join(" ")), true);
        Ok(())
    }

    /// Keys and values, all expanded with the variables from before the instruction.
    fn pairs(&self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, PlanError> {
        pairs.iter().map(|pair| Ok((self.expanded(&pair.key)?, self.expanded(&pair.value)?))).collect()
    }

    fn env(&mut self, pairs: &[KeyValue]) -> Result<(), PlanError> {
        let pairs = self.pairs(pairs)?;
        for (name, value) in &pairs {
            self.state.variables.set(name, value);
            set_text(&mut self.config().env, name, value);
        }
        self.history(pairs.iter().fold("ENV".to_owned(), |text, (n, v)| format!("{text} {n}={v}")), true);
        Ok(())
    }

    fn label(&mut self, pairs: &[KeyValue]) -> Result<(), PlanError> {
        let pairs = self.pairs(pairs)?;
        self.history(pairs.iter().fold("LABEL".to_owned(), |text, (n, v)| format!("{text} {n}={v}")), true);
        self.config().labels.extend(pairs);
        Ok(())
    }

    fn expose(&mut self, words: &[Word]) -> Result<(), PlanError> {
        let mut shown = Vec::new();
        for word in words {
            let expanded = expand_words(&word.text, self.escape, &self.lookup())
                .map_err(|e| PlanError::new(e.to_string(), word.span))?;
            for text in &expanded.words {
                let ports = parse_port(text).map_err(|e| PlanError::new(e.to_string(), word.span))?;
                let empty = || Value::Object(serde_json::Map::new());
                self.config().exposed_ports.extend(ports.keys().map(|port| (port, empty())));
            }
            shown.extend(expanded.words);
        }
        self.history(format!("EXPOSE [{}]", shown.join(" ")), true);
        Ok(())
    }

    fn volume(&mut self, words: &[Word]) -> Result<(), PlanError> {
        let mut paths = Vec::new();
        for word in words {
            let path = self.expanded(word)?;
            if path.is_empty() {
                return Err(PlanError::new("VOLUME specified can not be an empty string", word.span));
            }
            self.config().volumes.insert(path.clone(), Value::Object(serde_json::Map::new()));
            paths.push(path);
        }
        self.history(format!("VOLUME [{}]", paths.join(" ")), true);
        Ok(())
    }

    fn healthcheck(&mut self, healthcheck: &HealthcheckInstruction, original: &str) {
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
        self.history(original.trim().to_owned(), true);
    }

    fn workdir(&mut self, path: &Word, span: Option<Range<usize>>) -> Result<(), PlanError> {
        let path = self.expanded(path)?;
        let current = self.state.plan.config.config.working_dir.clone();
        let directory = join_directory(&current, &path);
        self.config().working_dir.clone_from(&directory);
        let makes_layer = directory != "/";
        let history = self.history(format!("WORKDIR {directory}"), !makes_layer);
        if makes_layer {
            let owner = self.state.plan.config.config.user.clone();
            self.step(format!("WORKDIR {directory}"), span, Action::MakeDirectory { path: directory, owner }, history);
        }
        Ok(())
    }

    pub(super) fn working_dir(&self) -> String {
        join_directory("/", &self.state.plan.config.config.working_dir)
    }

    pub(super) fn step(&mut self, name: String, span: Option<Range<usize>>, action: Action, history: usize) {
        let variables = std::mem::take(&mut *self.used.borrow_mut()).into_iter().filter_map(|name| {
            let value = self.state.variables.value(&name)?.to_owned();
            Some(UsedVariable { is_arg: !self.is_env(&name), name, value })
        });
        let origin = Origin { variables: variables.collect(), text: self.text.clone(), heredocs: Vec::new() };
        self.state.plan.steps.push(Step { name, span, action, history, origin });
    }

    /// Whether ENV, here or in the base image, set a variable.
    pub(super) fn is_env(&self, name: &str) -> bool {
        let env = &self.state.plan.config.config.env;
        env.iter().any(|text| text.split_once('=').is_some_and(|(n, _)| n == name))
    }

    /// Notes the heredocs of the step that was added last.
    pub(super) fn note_heredocs(&mut self, heredocs: &[Heredoc]) {
        if let Some(step) = self.state.plan.steps.last_mut() {
            let bodies = heredocs.iter().map(|heredoc| (heredoc.name().to_owned(), Arc::from(heredoc.body.as_str())));
            step.origin.heredocs = bodies.collect();
        }
    }
}

/// Joins a WORKDIR to the one before, lexically.
pub(super) fn join_directory(current: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("/{current}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_joined() {
        for (current, path, want) in
            [("/", "a", "/a"), ("/a", "b/../c", "/a/c"), ("/a", "/b/", "/b"), ("", "..", "/"), ("/a", "", "/a")]
        {
            assert_eq!(join_directory(current, path), want, "{current} {path}");
        }
    }
}
