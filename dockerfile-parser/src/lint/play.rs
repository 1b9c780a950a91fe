//! Plays the instructions of a stage: the environment grows, words are expanded, unset variables are noted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::BuildError;
use super::evaluate::{StageFacts, Step, Unset, Walk, error_at};
use super::faults::{refuse_addresses, refuse_checksum, refuse_chmod};
use crate::dockerfile::Node;
use crate::heredoc::Heredoc;
use crate::instruction::{Arg, Instruction, parse_trigger};
use crate::lexer::Word;
use crate::mount::{MountError, parse_mount};
use crate::suggest::nearest;
use crate::word::{Expanded, VariableUse, WordError, expand, expand_heredoc, expand_words};

/// Names that are never part of the environment, and never undefined.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What an instruction sees of those before it.
#[derive(Clone, Default)]
pub(super) struct State {
    env: BTreeMap<String, String>,
    /// The base image's variables are not known, so unset ones may be set there.
    env_unknown: bool,
    declared: Vec<String>,
    shell: Vec<String>,
    workdir_set: bool,
    triggers: Vec<String>,
    /// The number of the stage.
    stage: usize,
}

impl<'a> Walk<'a, '_> {
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
        state.stage = facts.stage.index;
        state.env.entry("PATH".to_owned()).or_insert_with(|| self.context.default_path.to_owned());
        state
    }

    pub(super) fn steps(&self, facts: &mut StageFacts<'a>, states: &[State]) -> (State, Option<BuildError>) {
        let mut state = self.initial_state(facts, states);
        if !facts.needed || self.is_replaced(facts.stage) {
            return (state, None);
        }
        for trigger in std::mem::take(&mut state.triggers) {
            let step = match parse_trigger(&trigger) {
                Ok(instruction) => self.step(facts.node, &Cow::Owned(instruction), &mut state),
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
            let (step, error) = self.step(node, &Cow::Borrowed(instruction), &mut state);
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
        instruction: &Cow<'a, Instruction>,
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
        let result = self.play(instruction, &mut step, state);
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
                words.flag(copy.chown.as_ref())?;
                let chmod = words.flag(copy.chmod.as_ref())?;
                let (values, destination) = words.operands(&copy.sources, &copy.heredocs, &copy.destination)?;
                (step.values, step.destination) = (values, destination);
                self.refuse_later_stage(instruction, state.stage)?;
                refuse_chmod(&chmod)?;
                refuse_addresses(&step.values)?;
            }
            Instruction::Add(add) => {
                words.flag(add.chown.as_ref())?;
                let chmod = words.flag(add.chmod.as_ref())?;
                let checksum = words.flag(add.checksum.as_ref())?;
                let (values, destination) = words.operands(&add.sources, &add.heredocs, &add.destination)?;
                (step.values, step.destination) = (values, destination);
                refuse_chmod(&chmod)?;
                refuse_checksum(&checksum, &step.values, step.values.len() + add.heredocs.len())?;
            }
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    words.mount(&mount.text)?;
                }
                self.refuse_later_stage(instruction, state.stage)?;
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
                    if words.one(&path.text)?.is_empty() {
                        return Err("VOLUME specified can not be an empty string".to_owned());
                    }
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

/// Expands words of one instruction and notes unset variables.
struct Words<'s> {
    escape: char,
    state: &'s State,
    unset: &'s mut Vec<Unset>,
}

impl Words<'_> {
    fn note(&mut self, variables: &[VariableUse]) {
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

    /// The value of a flag; one that is not there counts as empty.
    fn flag(&mut self, flag: Option<&Word>) -> Result<String, String> {
        flag.map_or_else(|| Ok(String::new()), |flag| self.one(&flag.text))
    }

    fn operands(
        &mut self,
        sources: &[Word],
        heredocs: &[Heredoc],
        destination: &Word,
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
