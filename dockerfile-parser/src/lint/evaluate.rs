//! Plays through the file as a build would, as far as that goes without building: build arguments, environment,
//! stages that are needed, triggers of base images. The rules then look at what was seen.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{BaseFacts, BaseRequest, BuildError, LintContext};
use crate::dockerfile::{Dockerfile, Node};
use crate::instruction::{Arg, Instruction, parse_trigger};
use crate::mount::{MountError, parse_mount};
use crate::stage::Stage;
use crate::suggest::nearest;
use crate::word::{Expanded, WordError, expand, expand_heredoc, expand_words};

/// Names that are never part of the environment, and never undefined.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What a build would see.
pub(super) struct Evaluation<'a> {
    pub(super) file: &'a Dockerfile,
    /// One entry for each stage, in order, up to an error.
    pub(super) stages: Vec<StageFacts<'a>>,
    /// The fault that ends the build, if one was met.
    pub(super) error: Option<BuildError>,
}

impl<'a> Evaluation<'a> {
    /// The instructions of all stages that are needed, in order.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step<'a>> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }
}

/// A stage as seen by a build.
pub(super) struct StageFacts<'a> {
    pub(super) stage: &'a Stage,
    /// Its FROM.
    pub(super) node: &'a Node,
    /// The base after expansion.
    pub(super) base: String,
    /// Whether the base is a stage of this file, and which.
    pub(super) base_stage: Option<usize>,
    /// `--platform` after expansion.
    pub(super) platform: Option<Expanded>,
    /// What is known of the base image.
    pub(super) facts: Option<BaseFacts>,
    /// Variables of FROM that nobody declares, with a similar name if there is one.
    pub(super) undeclared: Vec<Unset>,
    /// Whether a build needs it.
    pub(super) needed: bool,
    /// Its instructions, triggers first; empty if it is not needed.
    pub(super) steps: Vec<Step<'a>>,
}

/// A variable without a value, and a similar one that has one.
pub(super) struct Unset {
    pub(super) name: String,
    pub(super) suggestion: Option<String>,
}

/// An instruction as seen by a build.
pub(super) struct Step<'a> {
    /// Where it is reported: itself, or the FROM that fires it.
    pub(super) node: &'a Node,
    pub(super) instruction: Cow<'a, Instruction>,
    /// Unset variables, once for each word.
    pub(super) unset: Vec<Unset>,
    /// Whether SHELL was given before, here or in the base.
    pub(super) shell: Vec<String>,
    /// Whether WORKDIR was given before in this file.
    pub(super) workdir_set: bool,
    /// Sources of COPY and ADD, ports of EXPOSE, names of ENV, or the path of WORKDIR, after expansion.
    pub(super) values: Vec<String>,
    /// The destination of COPY and ADD after expansion.
    pub(super) destination: String,
}

#[derive(Clone, Default)]
struct State {
    env: BTreeMap<String, String>,
    /// The base image's variables are not known, so unset ones may be set there.
    env_unknown: bool,
    declared: Vec<String>,
    shell: Vec<String>,
    workdir_set: bool,
    triggers: Vec<String>,
}

struct Walk<'a, 'c> {
    file: &'a Dockerfile,
    context: &'c LintContext<'c>,
    globals: BTreeMap<String, String>,
}

/// Plays through the file.
pub(super) fn evaluate<'a>(file: &'a Dockerfile, context: &LintContext<'_>) -> Evaluation<'a> {
    let mut evaluation = Evaluation { file, stages: Vec::new(), error: None };
    let globals = match global_values(file, context, Some(context.build_args)) {
        Ok(globals) => globals,
        Err(error) => {
            evaluation.error = Some(error);
            return evaluation;
        }
    };
    let walk = Walk { file, context, globals };
    for stage in &file.stages {
        match walk.stage(stage) {
            Ok(facts) => evaluation.stages.push(facts),
            Err((facts, error)) => {
                evaluation.stages.extend(facts);
                evaluation.error = Some(error);
                return evaluation;
            }
        }
    }
    if let Err(error) = walk.mark_needed(&mut evaluation.stages) {
        evaluation.error = Some(error);
        return evaluation;
    }
    let mut states: Vec<State> = Vec::new();
    for index in 0..evaluation.stages.len() {
        let (state, error) = walk.steps(&mut evaluation.stages[index], &states);
        states.push(state);
        if error.is_some() {
            evaluation.error = error;
            return evaluation;
        }
    }
    evaluation
}

fn error_at(node: &Node, message: String) -> BuildError {
    BuildError { message, lines: Some(node.lines) }
}

/// The values of the arguments before the first FROM; without `build_args` only their defaults count.
pub(super) fn global_values(
    file: &Dockerfile,
    context: &LintContext<'_>,
    build_args: Option<&BTreeMap<String, String>>,
) -> Result<BTreeMap<String, String>, BuildError> {
    let mut values: BTreeMap<String, String> = context.predefined_args.clone();
    for (node, arg) in file.global_arg_nodes() {
        for declaration in &arg.declarations {
            let name = &declaration.name.text;
            let given = build_args.and_then(|given| given.get(name)).cloned();
            let value = match (given, &declaration.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => {
                    let lookup = |name: &str| values.get(name).cloned();
                    let expanded = expand(&default.text, file.escape(), &lookup);
                    Some(expanded.map_err(|error| error_at(node, error.to_string()))?.text)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                values.insert(name.clone(), value);
            }
        }
    }
    Ok(values)
}

impl<'a> Walk<'a, '_> {
    fn expand_global(&self, text: &str) -> Result<Expanded, WordError> {
        expand(text, self.file.escape(), &|name| self.globals.get(name).cloned())
    }

    /// FROM of a stage.
    #[allow(clippy::type_complexity, reason = "the facts gathered before the fault are findings too")]
    fn stage(&self, stage: &'a Stage) -> Result<StageFacts<'a>, (Option<StageFacts<'a>>, BuildError)> {
        let node = self.file.from_node(stage);
        let mut facts = StageFacts {
            stage,
            node,
            base: String::new(),
            base_stage: None,
            platform: None,
            facts: None,
            undeclared: Vec::new(),
            needed: false,
            steps: Vec::new(),
        };
        let fail = |facts: StageFacts<'a>, message: String| Err((Some(facts), error_at(node, message)));
        match self.expand_global(&stage.base.text) {
            Ok(expanded) => {
                self.undeclared(&expanded.variables, &mut facts.undeclared);
                facts.base = expanded.text;
            }
            Err(error) => {
                self.undeclared(&error.variables, &mut facts.undeclared);
                return fail(facts, error.to_string());
            }
        }
        if facts.base.is_empty() {
            return fail(facts, format!("base name ({}) should not be blank", stage.base.text));
        }
        if let Some(platform) = &stage.platform {
            match self.expand_global(&platform.text) {
                Ok(expanded) => {
                    self.undeclared(&expanded.variables, &mut facts.undeclared);
                    let empty = expanded.text.is_empty();
                    facts.platform = Some(expanded);
                    if empty {
                        return fail(facts, format!("empty platform value from expression {}", platform.text));
                    }
                }
                Err(error) => {
                    self.undeclared(&error.variables, &mut facts.undeclared);
                    return fail(facts, error.to_string());
                }
            }
        }
        let earlier = &self.file.stages[..stage.index];
        facts.base_stage =
            earlier.iter().rfind(|earlier| earlier.name.as_deref() == Some(facts.base.as_str())).map(|s| s.index);
        if facts.base_stage.is_none() && facts.base != "scratch" {
            let platform = facts.platform.as_ref().map(|platform| platform.text.as_str());
            facts.facts = (self.context.base)(&BaseRequest { stage, name: &facts.base, platform });
        }
        Ok(facts)
    }

    fn undeclared(&self, variables: &[crate::word::VariableUse], list: &mut Vec<Unset>) {
        let declared: BTreeSet<&str> = self
            .globals
            .keys()
            .map(String::as_str)
            .chain(self.file.global_arg_nodes().flat_map(|(_, arg)| names(arg)))
            .collect();
        let unset: BTreeSet<&str> = variables.iter().filter(|used| !used.set).map(|used| used.name.as_str()).collect();
        for name in unset.into_iter().filter(|name| !declared.contains(name)) {
            let suggestion = nearest(name, declared.iter().copied()).map(str::to_owned);
            list.push(Unset { name: name.to_owned(), suggestion });
        }
    }

    /// Finds the stages that the target needs, through bases, COPY and mounts.
    fn mark_needed(&self, stages: &mut [StageFacts<'a>]) -> Result<(), BuildError> {
        let target = match self.context.target {
            None => stages.last().map(|facts| facts.stage.index),
            Some(name) => Some(self.find(name).ok_or_else(|| BuildError {
                message: format!("target stage `{name}` could not be found"),
                lines: None,
            })?),
        };
        let mut open: Vec<usize> = target.into_iter().collect();
        if self.context.all_stages {
            open.extend(0..stages.len());
        }
        while let Some(index) = open.pop() {
            if stages[index].needed {
                continue;
            }
            stages[index].needed = true;
            if self.is_replaced(stages[index].stage) {
                continue;
            }
            open.extend(stages[index].base_stage);
            for node in self.file.stage_nodes(stages[index].stage) {
                let Some(instruction) = &node.instruction else { continue };
                open.extend(references(instruction).into_iter().filter_map(|name| self.find(&name)));
            }
        }
        Ok(())
    }

    fn is_replaced(&self, stage: &Stage) -> bool {
        stage.name.as_ref().is_some_and(|name| self.context.named_contexts.contains(name))
    }

    /// The stage of a number or name; of equal names the last one.
    fn find(&self, reference: &str) -> Option<usize> {
        crate::stage::find_stage(&self.file.stages, reference, self.file.stages.len()).map(|stage| stage.index)
    }

    fn initial_state(&self, facts: &StageFacts<'a>, states: &[State]) -> State {
        let mut state = match facts.base_stage.and_then(|index| states.get(index)) {
            Some(base) => base.clone(),
            None => {
                let mut state = State::default();
                match &facts.facts {
                    Some(image) => {
                        state.env = image.env.iter().cloned().collect();
                        state.shell.clone_from(&image.shell);
                        state.triggers.clone_from(&image.onbuild);
                    }
                    None => state.env_unknown = facts.base != "scratch",
                }
                state
            }
        };
        state.env.entry("PATH".to_owned()).or_insert_with(|| self.context.default_path.to_owned());
        state
    }

    fn steps(&self, facts: &mut StageFacts<'a>, states: &[State]) -> (State, Option<BuildError>) {
        let mut state = self.initial_state(facts, states);
        if !facts.needed || self.is_replaced(facts.stage) {
            return (state, None);
        }
        for trigger in std::mem::take(&mut state.triggers) {
            let step = match parse_trigger(&trigger) {
                Ok(instruction) => self.step(facts.node, Cow::Owned(instruction), &mut state),
                Err(diagnostics) => {
                    let message = diagnostics.first_error().map(ToString::to_string).unwrap_or_default();
                    return (state, Some(error_at(facts.node, message)));
                }
            };
            facts.steps.push(step.0);
            if step.1.is_some() {
                return (state, step.1);
            }
        }
        for node in self.file.stage_nodes(facts.stage) {
            let Some(instruction) = &node.instruction else { continue };
            let (step, error) = self.step(node, Cow::Borrowed(instruction), &mut state);
            facts.steps.push(step);
            if error.is_some() {
                return (state, error);
            }
        }
        (state, None)
    }

    fn step(
        &self,
        node: &'a Node,
        instruction: Cow<'a, Instruction>,
        state: &mut State,
    ) -> (Step<'a>, Option<BuildError>) {
        let mut step = Step {
            node,
            instruction: instruction.clone(),
            unset: Vec::new(),
            shell: state.shell.clone(),
            workdir_set: state.workdir_set,
            values: Vec::new(),
            destination: String::new(),
        };
        let result = self.play(&instruction, &mut step, state);
        (step, result.err().map(|message| error_at(node, message)))
    }

    fn play(&self, instruction: &Instruction, step: &mut Step<'_>, state: &mut State) -> Result<(), String> {
        let escape = self.file.escape();
        let mut words = Words { escape, state, unset: &mut step.unset };
        match instruction {
            Instruction::Arg(arg) => return self.play_arg(arg, step, state),
            Instruction::Env(env) => {
                let mut pairs = Vec::new();
                for pair in &env.pairs {
                    pairs.push((words.one(&pair.key.text)?, words.one(&pair.value.text)?));
                }
                step.values = pairs.iter().map(|(name, _)| name.clone()).collect();
                state.env.extend(pairs);
            }
            Instruction::Label(label) => {
                for pair in &label.pairs {
                    words.one(&pair.key.text)?;
                    words.one(&pair.value.text)?;
                }
            }
            Instruction::Copy(copy) => {
                let flags = [&copy.chown, &copy.chmod];
                words.flags(&flags)?;
                let (values, destination) = words.operands(&copy.sources, &copy.heredocs, &copy.destination)?;
                (step.values, step.destination) = (values, destination);
            }
            Instruction::Add(add) => {
                let flags = [&add.chown, &add.chmod, &add.checksum];
                words.flags(&flags)?;
                let (values, destination) = words.operands(&add.sources, &add.heredocs, &add.destination)?;
                (step.values, step.destination) = (values, destination);
            }
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    words.mount(&mount.text)?;
                }
            }
            Instruction::Expose(expose) => {
                for port in &expose.ports {
                    // COMPAT(buildkit): unset variables of EXPOSE are not reported.
                    let lookup = |name: &str| words.state.env.get(name).cloned();
                    let expanded = expand_words(&port.text, escape, &lookup).map_err(|error| error.to_string())?;
                    for word in &expanded.words {
                        crate::port::parse_port(word).map_err(|error| error.to_string())?;
                    }
                    step.values.extend(expanded.words);
                }
            }
            Instruction::Workdir(workdir) => {
                step.values = vec![words.one(&workdir.path.text)?];
                state.workdir_set = true;
            }
            Instruction::User(user) => drop(words.one(&user.user.text)?),
            Instruction::Volume(volume) => {
                for path in &volume.paths {
                    words.one(&path.text)?;
                }
            }
            Instruction::Stopsignal(stop) => {
                let signal = words.one(&stop.signal.text)?;
                crate::signal::parse_signal(&signal).map_err(|error| error.to_string())?;
            }
            Instruction::Shell(shell) => state.shell = shell.shell.iter().map(|word| word.text.clone()).collect(),
            Instruction::Onbuild(onbuild) => state.triggers.push(onbuild.expression.clone()),
            Instruction::From(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Healthcheck(_)
            | Instruction::Maintainer(_) => {}
        }
        Ok(())
    }

    fn play_arg(&self, arg: &Arg, step: &mut Step<'_>, state: &mut State) -> Result<(), String> {
        for declaration in &arg.declarations {
            let name = &declaration.name.text;
            let value = match (self.context.build_args.get(name), &declaration.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let mut words = Words { escape: self.file.escape(), state, unset: &mut step.unset };
                    Some(words.one(&default.text)?)
                }
                (None, None) => self.globals.get(name).cloned(),
            };
            if let Some(value) = value
                && !NOT_IN_ENVIRONMENT.contains(&name.as_str())
            {
                state.env.insert(name.clone(), value);
            }
            state.declared.push(name.clone());
            step.values.push(name.clone());
        }
        Ok(())
    }
}

fn names(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.declarations.iter().map(|declaration| declaration.name.text.as_str())
}

/// Stages and images that an instruction takes files from; variables in a mount's `from` are not allowed.
fn references(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().map(|from| from.text.clone()).collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .flat_map(|mount| mount.text.split(','))
            .filter_map(|field| field.split_once('='))
            .filter(|(key, _)| key.eq_ignore_ascii_case("from"))
            .map(|(_, value)| value.to_owned())
            .collect(),
        _ => Vec::new(),
    }
}

/// Expands words of one instruction and notes unset variables.
struct Words<'s> {
    escape: char,
    state: &'s State,
    unset: &'s mut Vec<Unset>,
}

impl Words<'_> {
    fn note(&mut self, variables: &[crate::word::VariableUse]) {
        if self.state.env_unknown {
            return;
        }
        let unset: BTreeSet<&str> = variables.iter().filter(|used| !used.set).map(|used| used.name.as_str()).collect();
        for name in unset {
            let declared = self.state.declared.iter().any(|declared| declared == name);
            if !declared && !NOT_IN_ENVIRONMENT.contains(&name) {
                let suggestion = nearest(name, self.state.env.keys().map(String::as_str)).map(str::to_owned);
                self.unset.push(Unset { name: name.to_owned(), suggestion });
            }
        }
    }

    fn done(&mut self, result: Result<Expanded, WordError>) -> Result<String, WordError> {
        match result {
            Ok(expanded) => {
                self.note(&expanded.variables);
                Ok(expanded.text)
            }
            Err(error) => {
                self.note(&error.variables);
                Err(error)
            }
        }
    }

    fn expand(&mut self, text: &str) -> Result<String, WordError> {
        let state = self.state;
        self.done(expand(text, self.escape, &|name| state.env.get(name).cloned()))
    }

    fn one(&mut self, text: &str) -> Result<String, String> {
        self.expand(text).map_err(|error| error.to_string())
    }

    fn flags(&mut self, flags: &[&Option<crate::Word>]) -> Result<(), String> {
        for flag in flags.iter().filter_map(|flag| flag.as_ref()) {
            self.one(&flag.text)?;
        }
        Ok(())
    }

    fn operands(
        &mut self,
        sources: &[crate::Word],
        heredocs: &[crate::Heredoc],
        destination: &crate::Word,
    ) -> Result<(Vec<String>, String), String> {
        let values = sources.iter().map(|source| self.one(&source.text)).collect::<Result<_, _>>()?;
        let destination = self.one(&destination.text)?;
        let state = self.state;
        for heredoc in heredocs.iter().filter(|heredoc| heredoc.word.expand) {
            let result = expand_heredoc(&heredoc.body, &|name| state.env.get(name).cloned());
            self.done(result).map_err(|error| error.to_string())?;
        }
        Ok((values, destination))
    }

    fn mount(&mut self, text: &str) -> Result<(), String> {
        match parse_mount(text, &mut |value| self.expand(value)) {
            Ok(_) => Ok(()),
            Err(MountError::Expand(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
