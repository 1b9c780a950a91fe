//! What names stand for: the FROM lines of all stages, and the names in `--from` of COPY and `from=` of mounts.

use std::collections::BTreeSet;

use rbuild_dockerfile::{Instruction, Span, Stage};

use super::error::{PlanError, PlanErrors, code};
use super::graph::Planner;
use super::source::{external_source, named_context};
use super::step::{Source, StageIndex};
use crate::oci::Platform;

/// Whether upper and lower case differ in a stage's name.
///
/// COMPAT(buildkit): they do in FROM, against names in lower case, and do not in `--from`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Exact,
    Any,
}

/// The first line of a stage, expanded.
#[derive(Clone)]
pub(super) struct Head {
    /// `None` where it is not known: the line is wrong, or holds a value that is.
    pub(super) base: Option<Source>,
    pub(super) platform: Platform,
}

impl Planner<'_> {
    /// Expands a FROM line. Its faults count in stages that nothing needs too.
    pub(super) fn head(&self, index: usize, stage: &Stage) -> Result<Head, PlanErrors> {
        let mut wrong = PlanErrors::default();
        let base_name = wrong.note(self.base_name(stage));
        let platform = wrong.note(self.platform(stage));
        let (Some(base_name), Some(platform)) = (base_name, platform) else { return Err(wrong) };
        let named = stage.name.as_ref().and_then(|name| self.named_context(name));
        let base = match (named, base_name) {
            (Some(context), _) => Some(Source::Named(context)),
            (None, None) => None,
            // COMPAT(buildkit): what is made from nothing is for the target, whatever --platform says.
            (None, Some(name)) if name == "scratch" => {
                return Ok(Head { base: Some(Source::Scratch), platform: self.options.platform.clone() });
            }
            (None, Some(name)) => match (self.earlier_stage(&name, index, Case::Exact), &platform) {
                (Some(earlier), _) => {
                    let platform = self.heads[earlier.0].platform.clone();
                    return Ok(Head { base: Some(Source::Stage(earlier)), platform });
                }
                (None, Some(platform)) => Some(self.external(&name, platform, stage.base.span)?),
                (None, None) => None,
            },
        };
        Ok(Head { base, platform: platform.unwrap_or_else(|| self.options.platform.clone()) })
    }

    /// The expanded name behind FROM; `None` where it is not known.
    fn base_name(&self, stage: &Stage) -> Result<Option<String>, PlanError> {
        match self.globals.expanded(&stage.base, self.dockerfile.escape())? {
            Some(name) if name.is_empty() => {
                let message = format!("base name (`{}`) should not be blank", stage.base.text);
                Err(PlanError::new(code::BLANK_BASE_NAME, message, stage.base.span)
                    .with_help("give the argument a default, or hand it over with --build-arg"))
            }
            name => Ok(name),
        }
    }

    /// The platform that a FROM asks for, or else the target's; `None` where it is not known.
    fn platform(&self, stage: &Stage) -> Result<Option<Platform>, PlanError> {
        let Some(word) = &stage.platform else { return Ok(Some(self.options.platform.clone())) };
        let Some(text) = self.globals.expanded(word, self.dockerfile.escape())? else { return Ok(None) };
        if text.is_empty() {
            let message = format!("empty platform value from expression `{}`", word.text);
            return Err(PlanError::new(code::PLATFORM, message, word.span));
        }
        let platform = text
            .parse()
            .map_err(|e: crate::oci::PlatformError| PlanError::new(code::PLATFORM, e.to_string(), word.span))?;
        Ok(Some(platform))
    }

    /// A named context or an image.
    fn external(&self, name: &str, platform: &Platform, span: Span) -> Result<Source, PlanError> {
        external_source(&self.options.named_contexts, name, platform).map_err(|e| {
            let error = PlanError::new(code::BASE_NAME, format!("failed to parse stage name `{name}`: {e}"), span);
            match self.similar_stage(name) {
                Some(similar) => error.with_help(format!("there is a stage named `{similar}`")),
                None => error,
            }
        })
    }

    fn similar_stage(&self, name: &str) -> Option<&str> {
        let names = self.dockerfile.stages.iter().filter_map(|s| s.name.as_deref());
        rbuild_dockerfile::nearest(&name.to_lowercase(), names)
    }

    fn named_context(&self, name: &str) -> Option<String> {
        named_context(&self.options.named_contexts, name)
    }

    /// The last stage of a name that stands before another.
    fn earlier_stage(&self, name: &str, before: usize, case: Case) -> Option<StageIndex> {
        let name = if case == Case::Exact { name.to_owned() } else { name.to_lowercase() };
        self.dockerfile.stages[..before].iter().rposition(|s| s.name.as_deref() == Some(&name)).map(StageIndex)
    }

    /// What `--from` of COPY, or `from=` of a mount, names in a stage.
    pub(super) fn copy_source(
        &self,
        name: &str,
        within: StageIndex,
        platform: &Platform,
        span: Span,
    ) -> Result<Source, PlanError> {
        if name.contains('$') {
            let message = "variable expansion is not supported for --from";
            return Err(PlanError::new(code::VARIABLE_IN_FROM, message, span)
                .with_help("define a new stage with FROM using ARG from global scope, and copy from that"));
        }
        if let Ok(number) = name.parse::<usize>() {
            return self.numbered_stage(number, within, span);
        }
        if let Some(context) = self.named_context(name) {
            return Ok(Source::Named(context));
        }
        if let Some(stage) = self.earlier_stage(name, within.0, Case::Any) {
            return Ok(Source::Stage(stage));
        }
        if let Some(later) = self.any_stage(name) {
            if let Some(circle) = self.circle(name, later, within, span) {
                return Err(circle);
            }
            let message = format!("cannot copy from stage `{name}`, it needs to be defined before current stage");
            return Err(PlanError::new(code::LATER_STAGE, message, span)
                .with_help("a stage can only use stages before it: move it up"));
        }
        if name == "scratch" {
            return Ok(Source::Scratch);
        }
        self.external(name, platform, span)
    }

    fn numbered_stage(&self, number: usize, within: StageIndex, span: Span) -> Result<Source, PlanError> {
        let count = self.dockerfile.stages.len();
        if number >= count {
            let message =
                format!("invalid stage index {number}: stages are counted from 0, and the last one is {}", count - 1);
            return Err(PlanError::new(code::STAGE_INDEX, message, span));
        }
        if number >= within.0 {
            if let Some(circle) = self.circle(&number.to_string(), StageIndex(number), within, span) {
                return Err(circle);
            }
            let message = format!("stage {number} stands below this one: a stage can only use earlier ones");
            return Err(PlanError::new(code::LATER_STAGE, message, span)
                .with_help("stages are counted from 0; move it up, or give it a name and use that"));
        }
        Ok(Source::Stage(StageIndex(number)))
    }

    /// The error of a stage that takes files from a later one, or from itself, that takes some from it in turn.
    ///
    /// COMPAT(buildkit): what a stage is built on does not count here; of two stages of a name it is the last.
    fn circle(&self, name: &str, later: StageIndex, within: StageIndex, span: Span) -> Option<PlanError> {
        if later == within {
            let message = format!("circular dependency: stage `{name}` copies from itself");
            return Some(PlanError::new(code::CIRCULAR, message, span));
        }
        let (mut open, mut seen) = (vec![later], BTreeSet::new());
        while let Some(index) = open.pop() {
            if index == within {
                let message = format!("circular dependency: stage `{name}` copies from this one in its turn");
                return Some(PlanError::new(code::CIRCULAR, message, span));
            }
            let Some(stage) = self.dockerfile.stages.get(index.0).filter(|_| seen.insert(index)) else { continue };
            let nodes = self.dockerfile.stage_nodes(stage);
            let names = nodes.iter().flat_map(|node| source_names(node.instruction.as_ref()));
            open.extend(names.filter_map(|(name, _)| match name.parse() {
                Ok(number) => Some(StageIndex(number)),
                Err(_) => self.any_stage(&name),
            }));
        }
        None
    }

    /// The last stage of a name, wherever it stands.
    fn any_stage(&self, name: &str) -> Option<StageIndex> {
        self.earlier_stage(name, self.dockerfile.stages.len(), Case::Any)
    }

    /// Looks up every name of `--from` and of mounts. COMPAT(buildkit): wrong ones are errors in stages that nothing
    /// needs too, but for names of later stages.
    pub(super) fn check_names(&self) -> PlanErrors {
        let mut errors = PlanErrors::default();
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            let within = StageIndex(index);
            if self.is_replaced(within) {
                continue;
            }
            for node in self.dockerfile.stage_nodes(stage) {
                for (name, span) in source_names(node.instruction.as_ref()) {
                    match self.copy_source(&name, within, &self.heads[index].platform, span) {
                        Err(error) if error.code != code::LATER_STAGE => errors.push(error),
                        _ => {}
                    }
                }
            }
        }
        errors
    }

    /// Whether a named context stands in for the whole stage.
    pub(super) fn is_replaced(&self, index: StageIndex) -> bool {
        let name = self.dockerfile.stages[index.0].name.as_deref();
        name.is_some_and(|name| self.named_context(name).is_some())
    }
}

/// The names of other trees in an instruction.
pub(super) fn source_names(instruction: Option<&Instruction>) -> Vec<(String, Span)> {
    match instruction {
        Some(Instruction::Copy(copy)) => copy.from.iter().map(|w| (w.text.clone(), w.span)).collect(),
        Some(Instruction::Run(run)) => super::run::mount_sources(run),
        _ => Vec::new(),
    }
}
