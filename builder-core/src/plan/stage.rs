//! One stage: from its instructions and the configuration of its base to steps and a final configuration.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Heredoc, Instruction, Span, Stage, Word, history, parse_trigger};

use super::error::{PlanError, code};
use super::graph::PlanOptions;
use super::state::StageState;
use super::step::{Action, Origin, Source, StageIndex, Step, UsedVariable};
use super::variables::{DEFAULT_PATH, Variables};
use crate::oci::History;

/// What BuildKit writes into the history's comment; tools tell by it which entries a Dockerfile made.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// The shell of shell-form instructions where SHELL says nothing.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The same of images for Windows.
const DEFAULT_WINDOWS_SHELL: [&str; 3] = ["cmd", "/S", "/C"];

/// Finds the tree that a name of `--from` stands for.
pub(super) type ResolveSource<'a> = dyn Fn(&str, Span) -> Result<Source, PlanError> + 'a;

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
    mut state: StageState,
    globals: &Variables,
    options: &PlanOptions,
    replaced: bool,
    resolve: &ResolveSource<'_>,
) -> Result<StageState, PlanError> {
    state.plan.index = index;
    state.plan.name = stage.name.clone().unwrap_or_else(|| index.0.to_string());
    state.plan.base = base.clone();
    let triggers = std::mem::take(&mut state.plan.config.config.on_build);
    if replaced {
        state.plan.config.config.on_build = triggers;
        return Ok(state);
    }
    let has_path = state.variables.value("PATH").is_some();
    // Windows has a search path of its own.
    if !has_path && state.plan.platform.os != "windows" {
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
        let wrong = |code: &'static str, message: &str| {
            let message = format!("the ONBUILD trigger `{trigger}` of the base image: {message}");
            PlanError::new(code, message, stage.base.span)
        };
        let instruction = parse_trigger(trigger).map_err(|diagnostics| match diagnostics.first_error() {
            Some(error) => wrong(error.code, &error.message),
            None => wrong(code::TRIGGER, "it is no instruction"),
        })?;
        walk.instruction(&instruction, trigger, None).map_err(|e| wrong(e.code, &e.message).with_help(e.help))?;
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
    pub(super) globals: &'a Variables,
    pub(super) options: &'a PlanOptions,
    pub(super) resolve: &'a ResolveSource<'a>,
    /// Whether this stage has had a CMD: an ENTRYPOINT clears only an inherited one.
    pub(super) command_set: bool,
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
                self.cmd(&cmd.command);
                Ok(())
            }
            Instruction::Entrypoint(entrypoint) => {
                self.entrypoint(&entrypoint.command);
                Ok(())
            }
            Instruction::Expose(expose) => self.expose(&expose.ports),
            Instruction::Healthcheck(healthcheck) => {
                self.healthcheck(healthcheck);
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
                self.history(history::list("SHELL", &words), true);
                self.config().shell = words;
                Ok(())
            }
            Instruction::Stopsignal(stop) => self.stopsignal(&stop.signal),
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

    fn workdir(&mut self, path: &Word, span: Option<Range<usize>>) -> Result<(), PlanError> {
        let path = self.expanded(path)?;
        let current = self.state.plan.config.config.working_dir.clone();
        // COMPAT(buildkit): an absolute path is recorded as it is written, `/a//b/` too.
        let directory = if path.starts_with('/') { path } else { join_directory(&current, &path) };
        self.config().working_dir.clone_from(&directory);
        let makes_layer = directory != "/";
        let history = self.history(format!("WORKDIR {directory}"), !makes_layer);
        if makes_layer {
            let owner = self.state.plan.config.config.user.clone();
            let action = Action::MakeDirectory { path: join_directory("/", &directory), owner };
            self.step(format!("WORKDIR {directory}"), span, action, history);
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
