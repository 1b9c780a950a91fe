//! One stage: from its instructions and the configuration of its base to steps and a final configuration.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Heredoc, Instruction, Span, Stage, Word, history, parse_trigger};

use super::arguments::Globals;
use super::error::{PlanError, PlanErrors, code};
use super::graph::PlanOptions;
use super::state::StageState;
use super::step::{Action, Origin, Source, StageIndex, Step, UsedVariable};
use super::variables::DEFAULT_PATH;
use super::workdir::next_directory;
use crate::oci::History;

/// What BuildKit writes into the history's comment; tools tell by it which entries a Dockerfile made.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// The shell of shell-form instructions where SHELL says nothing.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The same of images for Windows.
const DEFAULT_WINDOWS_SHELL: [&str; 3] = ["cmd", "/S", "/C"];

/// Finds the tree that a name of `--from` stands for.
pub(super) type ResolveSource<'a> = dyn Fn(&str, Span) -> Result<Source, PlanError> + 'a;

/// What a stage is planned from.
pub(super) struct StageInput<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) stage: &'a Stage,
    pub(super) index: StageIndex,
    /// `None` where its FROM is wrong.
    pub(super) base: Option<&'a Source>,
    /// Whether a named context stands in for the stage, so that nothing is done.
    pub(super) replaced: bool,
    pub(super) globals: &'a Globals,
    pub(super) options: &'a PlanOptions,
    pub(super) resolve: &'a ResolveSource<'a>,
}

/// Walks a stage's instructions, all of them also behind one that is wrong.
pub(super) fn plan_stage(input: &StageInput<'_>, mut state: StageState, errors: &mut PlanErrors) -> StageState {
    let stage = input.stage;
    state.plan.index = input.index;
    state.plan.name = stage.name.clone().unwrap_or_else(|| input.index.0.to_string());
    state.plan.base = input.base.cloned().unwrap_or(Source::Scratch);
    if input.replaced {
        return state;
    }
    errors.append(base_directory(stage, &mut state).err().map(PlanErrors::from).unwrap_or_default());
    let triggers = std::mem::take(&mut state.plan.config.config.on_build);
    let has_path = state.variables.value("PATH").is_some() || state.has_unknown_base();
    // Windows has a search path of its own.
    if !has_path && state.plan.platform.os != "windows" {
        state.plan.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        state.variables.set_env("PATH", DEFAULT_PATH);
    }
    let mut walk = Walk {
        state,
        escape: input.dockerfile.escape(),
        globals: input.globals,
        options: input.options,
        resolve: input.resolve,
        command_set: false,
        text: String::new(),
        used: RefCell::default(),
        is_doubtful: Cell::default(),
    };
    for trigger in &triggers {
        let wrong = |code: &'static str, message: &str| {
            let message = format!("the ONBUILD trigger `{trigger}` of the base image: {message}");
            PlanError::new(code, message, stage.base.span)
        };
        match parse_trigger(trigger) {
            Ok(instruction) => {
                let found = walk.instruction(&instruction, trigger, None);
                errors.append(found.map(|e| wrong(e.code, &e.message).with_help(e.help)));
            }
            Err(diagnostics) => errors.push(match diagnostics.first_error() {
                Some(error) => wrong(error.code, &error.message),
                None => wrong(code::TRIGGER, "it is no instruction"),
            }),
        }
    }
    for node in input.dockerfile.stage_nodes(stage) {
        let Some(instruction) = &node.instruction else { continue };
        errors.append(walk.instruction(instruction, &node.text, Some(node.span.start..node.span.end)));
    }
    walk.state
}

/// Takes over the working directory of the base.
///
/// COMPAT(buildkit): it is taken as WORKDIR takes a path, from itself: a relative one comes twice.
fn base_directory(stage: &Stage, state: &mut StageState) -> Result<(), PlanError> {
    let directory = &mut state.plan.config.config.working_dir;
    if !directory.is_empty() {
        *directory = next_directory(directory, directory, &state.plan.platform.os).map_err(|error| {
            let message = format!("the working directory of the base image: {error}");
            PlanError::new(code::WORKDIR, message, stage.base.span)
        })?;
    }
    Ok(())
}

pub(super) struct Walk<'a> {
    pub(super) state: StageState,
    pub(super) escape: char,
    globals: &'a Globals,
    pub(super) options: &'a PlanOptions,
    pub(super) resolve: &'a ResolveSource<'a>,
    /// Whether this stage has had a CMD: an ENTRYPOINT clears only an inherited one.
    pub(super) command_set: bool,
    /// The instruction that is being looked at.
    text: String,
    /// The variables that were expanded in it so far.
    used: RefCell<BTreeSet<String>>,
    /// Whether one of them has a value that is not known.
    is_doubtful: Cell<bool>,
}

impl Walk<'_> {
    /// Takes the next instruction; gives what is wrong with it, unless that may only follow from what is not known.
    fn instruction(&mut self, instruction: &Instruction, original: &str, span: Option<Range<usize>>) -> PlanErrors {
        original.trim().clone_into(&mut self.text);
        self.used.take();
        self.is_doubtful.set(false);
        let errors = self.take(instruction, span).err().unwrap_or_default();
        let is_doubtful = self.is_doubtful.get();
        match instruction {
            Instruction::Arg(arg) => {
                let names = arg.declarations.iter().map(|declaration| declaration.name.text.as_str());
                self.state.note_doubt(names, is_doubtful || !errors.is_empty());
            }
            Instruction::Env(env) => {
                let names = env.pairs.iter().map(|pair| pair.key.text.as_str());
                self.state.note_doubt(names, is_doubtful || !errors.is_empty());
            }
            _ => {}
        }
        if is_doubtful { PlanErrors::default() } else { errors }
    }

    fn take(&mut self, instruction: &Instruction, span: Option<Range<usize>>) -> Result<(), PlanErrors> {
        match instruction {
            Instruction::From(_) => {}
            Instruction::Arg(arg) => self.arg(arg)?,
            Instruction::Env(env) => self.env(&env.pairs)?,
            Instruction::Label(label) => self.label(&label.pairs)?,
            Instruction::Run(run) => self.run(run, span)?,
            Instruction::Copy(copy) => self.copy(copy, span)?,
            Instruction::Add(add) => self.add(add, span)?,
            Instruction::Workdir(workdir) => self.workdir(&workdir.path, span)?,
            Instruction::Cmd(cmd) => self.cmd(&cmd.command),
            Instruction::Entrypoint(entrypoint) => self.entrypoint(&entrypoint.command),
            Instruction::Expose(expose) => self.expose(&expose.ports)?,
            Instruction::Healthcheck(healthcheck) => self.healthcheck(healthcheck),
            Instruction::Maintainer(maintainer) => {
                self.state.plan.config.author.clone_from(&maintainer.author.text);
                self.history(format!("MAINTAINER {}", maintainer.author.text), true);
            }
            Instruction::Onbuild(onbuild) => self.config().on_build.push(onbuild.expression.clone()),
            Instruction::Shell(shell) => {
                let words: Vec<String> = shell.shell.iter().map(|w| w.text.clone()).collect();
                self.history(history::list("SHELL", &words), true);
                self.config().shell = words;
            }
            Instruction::Stopsignal(stop) => self.stopsignal(&stop.signal)?,
            Instruction::User(user) => {
                let name = self.expanded(&user.user)?;
                self.history(format!("USER {name}"), true);
                self.config().user = name;
            }
            Instruction::Volume(volume) => self.volume(&volume.paths)?,
        }
        Ok(())
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
            self.is_doubtful.set(self.is_doubtful.get() || self.state.is_doubtful(name));
            self.state.variables.value(name).map(str::to_owned)
        }
    }

    /// The value that a global ARG gives to an ARG of the stage.
    pub(super) fn global(&self, name: &str) -> Option<String> {
        self.is_doubtful.set(self.is_doubtful.get() || self.globals.doubtful.contains(name));
        self.globals.variables.value(name).map(str::to_owned)
    }

    pub(super) fn expanded(&self, word: &Word) -> Result<String, PlanError> {
        expand(&word.text, self.escape, &self.lookup())
            .map(|e| e.text)
            .map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), word.span))
    }

    /// The value of a flag; one that expands to nothing counts as absent.
    pub(super) fn expanded_option(&self, word: Option<&Word>) -> Result<Option<String>, PlanError> {
        Ok(word.map(|w| self.expanded(w)).transpose()?.filter(|value| !value.is_empty()))
    }

    pub(super) fn shell(&self) -> Vec<String> {
        let shell = &self.state.plan.config.config.shell;
        match shell.is_empty() {
            true if self.state.plan.config.os == "windows" => DEFAULT_WINDOWS_SHELL.map(str::to_owned).to_vec(),
            true => DEFAULT_SHELL.map(str::to_owned).to_vec(),
            false => shell.clone(),
        }
    }

    pub(super) fn shell_unless(&self, exec_form: bool) -> Vec<String> {
        if exec_form { Vec::new() } else { self.shell() }
    }

    /// Adds a step, unless what it does may depend on what is not known: then the whole can't be planned.
    pub(super) fn step(&mut self, name: String, span: Option<Range<usize>>, action: Action, history: usize) {
        if self.is_doubtful.get() {
            return;
        }
        let variables = std::mem::take(&mut *self.used.borrow_mut()).into_iter().filter_map(|name| {
            let value = self.state.variables.value(&name)?.to_owned();
            Some(UsedVariable { is_arg: !self.state.variables.is_env(&name), name, value })
        });
        let origin = Origin { variables: variables.collect(), text: self.text.clone(), heredocs: Vec::new() };
        self.state.plan.steps.push(Step { name, span, action, history, origin });
    }

    /// Notes the heredocs of the step that was added last.
    pub(super) fn note_heredocs(&mut self, heredocs: &[Heredoc]) {
        if self.is_doubtful.get() {
            return;
        }
        if let Some(step) = self.state.plan.steps.last_mut() {
            let bodies = heredocs.iter().map(|heredoc| (heredoc.name().to_owned(), Arc::from(heredoc.body.as_str())));
            step.origin.heredocs = bodies.collect();
        }
    }
}

/// Which bytes of the Dockerfile words are; nothing for those of a trigger, whose instruction has no `span`.
pub(super) fn places(words: &[Word], span: Option<&Range<usize>>) -> Vec<Range<usize>> {
    words.iter().filter(|_| span.is_some()).map(|word| word.span.range()).collect()
}
