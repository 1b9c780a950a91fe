//! Plays through the file as a build would, as far as that goes without building: build arguments, environment,
//! stages that are needed, triggers of base images. The rules then look at what was seen.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::platform::parse_platform;
use super::play::State;
use super::{BaseFacts, BaseRequest, BuildError, LintContext};
use crate::dockerfile::{Dockerfile, Node};
use crate::instruction::{Arg, Instruction};
use crate::stage::Stage;
use crate::suggest::nearest;
use crate::word::{Expanded, expand};

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
    /// Whether its layers are part of an image: it is built for its own sake, or such a stage is built on it.
    pub(super) shipped: bool,
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

/// The file and what is known beside it.
pub(super) struct Walk<'a, 'c> {
    pub(super) file: &'a Dockerfile,
    pub(super) context: &'c LintContext<'c>,
    /// Values of the arguments before the first FROM.
    pub(super) globals: BTreeMap<String, String>,
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
        let (facts, error) = walk.stage(stage);
        evaluation.stages.push(facts);
        if error.is_some() {
            evaluation.error = error;
            return evaluation;
        }
    }
    match walk.target(&evaluation.stages) {
        Ok(target) => {
            walk.mark_needed(&mut evaluation.stages, target);
            walk.mark_shipped(&mut evaluation.stages, target);
        }
        Err(error) => {
            evaluation.error = Some(error);
            return evaluation;
        }
    }
    evaluation.error = walk.wrong_name(&evaluation.stages);
    if evaluation.error.is_some() {
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

pub(super) fn error_at(node: &Node, message: String) -> BuildError {
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
    /// FROM of a stage: what is known of it, and the fault that ends the build there.
    fn stage(&self, stage: &'a Stage) -> (StageFacts<'a>, Option<BuildError>) {
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
            shipped: false,
            steps: Vec::new(),
        };
        let fault = self.expand_from(&mut facts).err().map(|message| error_at(node, message));
        if fault.is_some() {
            return (facts, fault);
        }
        let earlier = &self.file.stages[..stage.index];
        facts.base_stage =
            earlier.iter().rfind(|earlier| earlier.name.as_deref() == Some(facts.base.as_str())).map(|s| s.index);
        if facts.base_stage.is_none() && facts.base != "scratch" {
            let platform = facts.platform.as_ref().map(|platform| platform.text.as_str());
            facts.facts = (self.context.base)(&BaseRequest { stage, name: &facts.base, platform });
        }
        (facts, None)
    }

    fn expand_from(&self, facts: &mut StageFacts<'a>) -> Result<(), String> {
        let base = &facts.stage.base.text;
        facts.base = self.expand_global(base, &mut facts.undeclared)?.text;
        if facts.base.is_empty() {
            return Err(format!("base name ({base}) should not be blank"));
        }
        if let Some(written) = &facts.stage.platform {
            let platform = self.expand_global(&written.text, &mut facts.undeclared)?;
            let (empty, valid) = (platform.text.is_empty(), parse_platform(&platform.text).is_some());
            facts.platform = Some(platform);
            if empty {
                return Err(format!("empty platform value from expression {}", written.text));
            }
            if !valid {
                return Err(format!("failed to parse platform {}", written.text));
            }
        }
        Ok(())
    }

    fn expand_global(&self, text: &str, undeclared: &mut Vec<Unset>) -> Result<Expanded, String> {
        match expand(text, self.file.escape(), &|name| self.globals.get(name).cloned()) {
            Ok(expanded) => {
                self.undeclared(&expanded.variables, undeclared);
                Ok(expanded)
            }
            Err(error) => {
                self.undeclared(&error.variables, undeclared);
                Err(error.to_string())
            }
        }
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

    /// The stage to build.
    fn target(&self, stages: &[StageFacts<'a>]) -> Result<Option<usize>, BuildError> {
        let Some(name) = self.context.target else { return Ok(stages.last().map(|facts| facts.stage.index)) };
        let missing = || {
            let names = self.file.stages.iter().filter_map(|stage| stage.name.as_deref());
            let near = nearest(&name.to_lowercase(), names).map(|near| format!(" (did you mean `{near}`?)"));
            let message = format!("target stage `{name}` could not be found{}", near.unwrap_or_default());
            BuildError { message, lines: None }
        };
        self.find(name).map(Some).ok_or_else(missing)
    }

    /// Finds the stages that the target needs, through bases, COPY and mounts.
    fn mark_needed(&self, stages: &mut [StageFacts<'a>], target: Option<usize>) {
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
            open.extend(self.sources(stages[index].stage));
        }
    }

    /// Finds the stages whose layers become part of an image: the target, where all are looked at those too that no
    /// other one uses, and what these are built on.
    fn mark_shipped(&self, stages: &mut [StageFacts<'a>], target: Option<usize>) {
        let mut open: Vec<usize> = target.into_iter().collect();
        if self.context.all_stages {
            let used: BTreeSet<usize> =
                stages.iter().flat_map(|facts| self.sources(facts.stage).into_iter().chain(facts.base_stage)).collect();
            open.extend((0..stages.len()).filter(|index| !used.contains(index)));
        }
        while let Some(index) = open.pop() {
            if !stages[index].shipped {
                stages[index].shipped = true;
                open.extend(stages[index].base_stage);
            }
        }
    }

    /// The stages that COPY and mounts of a stage take files from.
    fn sources(&self, stage: &Stage) -> Vec<usize> {
        let instructions = self.file.stage_nodes(stage).iter().filter_map(|node| node.instruction.as_ref());
        instructions.flat_map(references).filter_map(|name| self.find(&name)).collect()
    }

    pub(super) fn is_replaced(&self, stage: &Stage) -> bool {
        stage.name.as_ref().is_some_and(|name| self.context.named_contexts.contains(name))
    }

    /// The stage of a number or name; of equal names the last one.
    pub(super) fn find(&self, reference: &str) -> Option<usize> {
        crate::stage::find_stage(&self.file.stages, reference, self.file.stages.len()).map(|stage| stage.index)
    }
}

fn names(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.declarations.iter().map(|declaration| declaration.name.text.as_str())
}

/// Stages and images that an instruction takes files from; variables in a mount's `from` are not allowed.
pub(super) fn references(instruction: &Instruction) -> Vec<String> {
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
