//! Which stages a target needs, and what they start from.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Instruction, Span, Stage, Word};

use super::arguments::{global_variables, unused_args};
use super::error::{PlanError, code};
use super::source::{external_source, named_context};
use super::stage::plan_stage;
use super::state::StageState;
use super::step::{NetworkChoice, Source, StageIndex, StagePlan};
use super::target::{find_target, set_platform};
use super::variables::Variables;
use crate::oci::{ImageConfig, Platform};

/// What planning depends on besides the Dockerfile.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build, by name; the last one where absent.
    pub target: Option<String>,
    /// The platform to build for.
    pub platform: Platform,
    /// Who chose it.
    pub platform_choice: PlatformChoice,
    /// The platform of this machine.
    pub build_platform: Platform,
    /// The names of named contexts.
    pub named_contexts: BTreeSet<String>,
    /// Labels, which win over the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// The network of RUN steps that don't choose one.
    pub network: NetworkChoice,
    /// What ARG gives for `SOURCE_DATE_EPOCH` in place of the name that the build argument or global ARG has.
    pub source_date_epoch: Option<String>,
}

/// Who chose the platform that is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformChoice {
    /// The caller: the image says that it is for this platform, whatever its base is for.
    Asked,
    /// Nobody, so it is this machine's: the image is for what its base is for.
    Machine,
}

/// The stages to build, each after those that it needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<StagePlan>,
    /// The one whose image is wanted.
    pub target: StageIndex,
    /// Build arguments that nothing declares.
    pub unused_args: Vec<String>,
}

/// How far planning got.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is done.
    Plan(Plan),
    /// It needs the configurations of these sources; a source without any (a folder) is answered with an empty one.
    Needs(Vec<Needed>),
}

/// Plans the build of a target, given the configurations of bases known so far.
///
/// # Errors
/// When the target is unknown, stages need each other in a circle, a value does not expand, or an instruction has a
/// value that it can't have.
pub fn plan(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    configs: &BTreeMap<Source, ImageConfig>,
) -> Result<Outcome, PlanError> {
    let globals = global_variables(dockerfile, options)?;
    let target = find_target(dockerfile, options)?;
    let mut planner = Planner {
        dockerfile,
        options,
        configs,
        globals,
        heads: Vec::new(),
        done: BTreeMap::new(),
        order: Vec::new(),
        open: Vec::new(),
        needs: BTreeMap::new(),
    };
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        let head = planner.head(index, stage)?;
        planner.heads.push(head);
    }
    planner.check_names()?;
    planner.visit(target)?;
    if !planner.needs.is_empty() {
        let needed = planner.needs.into_iter().map(|(source, span)| Needed { source, span: Some(span) });
        return Ok(Outcome::Needs(needed.collect()));
    }
    let mut done = planner.done;
    let mut stages: Vec<StagePlan> =
        planner.order.iter().filter_map(|index| done.remove(index)).flatten().map(|state| state.plan).collect();
    if let Some(stage) = stages.iter_mut().find(|stage| stage.index == target) {
        stage.config.config.labels.extend(options.labels.clone());
        if options.platform_choice == PlatformChoice::Asked {
            set_platform(&mut stage.config, &options.platform);
        }
    }
    let unused_args = unused_args(dockerfile, options);
    Ok(Outcome::Plan(Plan { stages, target, unused_args }))
}

/// Whether upper and lower case differ in a stage's name.
///
/// COMPAT(buildkit): they do in FROM, against names in lower case, and do not in `--from`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Exact,
    Any,
}

/// A source whose configuration planning needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The source.
    pub source: Source,
    /// The bytes of the Dockerfile that first name it; `None` for a plan without one.
    pub span: Option<Span>,
}

/// The first line of a stage, expanded.
#[derive(Clone)]
struct Head {
    base: Source,
    platform: Platform,
}

struct Planner<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a PlanOptions,
    configs: &'a BTreeMap<Source, ImageConfig>,
    globals: Variables,
    /// Of the stages so far; each only looks at those before it.
    heads: Vec<Head>,
    /// `None` for a stage whose base is not known yet.
    done: BTreeMap<StageIndex, Option<StageState>>,
    order: Vec<StageIndex>,
    open: Vec<StageIndex>,
    needs: BTreeMap<Source, Span>,
}

impl Planner<'_> {
    /// Expands a FROM line. Its faults count in stages that nothing needs too.
    fn head(&self, index: usize, stage: &Stage) -> Result<Head, PlanError> {
        let escape = self.dockerfile.escape();
        let lookup = |name: &str| self.globals.value(name).map(str::to_owned);
        let expanded = |word: &Word| {
            expand(&word.text, escape, &lookup)
                .map(|e| e.text)
                .map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), word.span))
        };
        let base_name = expanded(&stage.base)?;
        if base_name.is_empty() {
            let message = format!("base name (`{}`) should not be blank", stage.base.text);
            return Err(PlanError::new(code::BLANK_BASE_NAME, message, stage.base.span)
                .with_help("give the argument a default, or hand it over with --build-arg"));
        }
        let mut platform = None;
        if let Some(word) = &stage.platform {
            let text = expanded(word)?;
            if text.is_empty() {
                let message = format!("empty platform value from expression `{}`", word.text);
                return Err(PlanError::new(code::PLATFORM, message, word.span));
            }
            let wrong = |e: crate::oci::PlatformError| PlanError::new(code::PLATFORM, e.to_string(), word.span);
            platform = Some(text.parse::<Platform>().map_err(wrong)?);
        }
        let wanted = platform.unwrap_or_else(|| self.options.platform.clone());
        if let Some(name) = &stage.name
            && let Some(context) = self.named_context(name)
        {
            return Ok(Head { base: Source::Named(context), platform: wanted });
        }
        if base_name == "scratch" {
            // COMPAT(buildkit): what is made from nothing is for the target, whatever --platform says.
            return Ok(Head { base: Source::Scratch, platform: self.options.platform.clone() });
        }
        if let Some(earlier) = self.earlier_stage(&base_name, index, Case::Exact) {
            return Ok(Head { base: Source::Stage(earlier), platform: self.heads[earlier.0].platform.clone() });
        }
        let base = self.external(&base_name, &wanted, stage.base.span)?;
        Ok(Head { base, platform: wanted })
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
    fn copy_source(
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
        let lower = name.to_lowercase();
        if self.dockerfile.stages[within.0].name.as_deref() == Some(&lower) {
            let message = format!("circular dependency: stage `{name}` copies from itself");
            return Err(PlanError::new(code::CIRCULAR, message, span));
        }
        if self.dockerfile.stages.iter().any(|stage| stage.name.as_deref() == Some(&lower)) {
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
        if number == within.0 {
            let message = format!("circular dependency: stage {number} copies from itself");
            return Err(PlanError::new(code::CIRCULAR, message, span));
        }
        if number > within.0 {
            let message = format!("forward reference to stage {number}: a stage can only use earlier ones");
            return Err(PlanError::new(code::LATER_STAGE, message, span));
        }
        Ok(Source::Stage(StageIndex(number)))
    }

    /// Looks up every name of `--from` and of mounts. COMPAT(buildkit): wrong ones are errors in stages that nothing
    /// needs too, but for names of later stages.
    fn check_names(&self) -> Result<(), PlanError> {
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            let within = StageIndex(index);
            if matches!(&self.heads[index].base, Source::Named(context) if self.is_replaced(within, context)) {
                continue;
            }
            for node in self.dockerfile.stage_nodes(stage) {
                for (name, span) in source_names(node.instruction.as_ref()) {
                    match self.copy_source(&name, within, &self.heads[index].platform, span) {
                        Err(error) if error.code != code::LATER_STAGE => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, index: StageIndex) -> Result<(), PlanError> {
        if self.done.contains_key(&index) {
            return Ok(());
        }
        debug_assert!(!self.open.contains(&index), "stages only use earlier ones");
        self.open.push(index);
        let Head { base, platform } = self.heads[index.0].clone();
        self.visit_uses_without_base(index, &platform)?;
        let span = self.dockerfile.stages[index.0].base.span;
        let state = self.state_of_base(&base, &platform, span)?;
        let state = match state {
            Some(state) => Some(self.plan_one(index, &base, &platform, state)?),
            None => None,
        };
        self.open.pop();
        self.done.insert(index, state);
        self.order.push(index);
        Ok(())
    }

    /// Looks at what a stage uses before its base is known, so that everything is asked for at once.
    fn visit_uses_without_base(&mut self, index: StageIndex, platform: &Platform) -> Result<(), PlanError> {
        if matches!(&self.heads[index.0].base, Source::Named(context) if self.is_replaced(index, context)) {
            return Ok(());
        }
        let stage = &self.dockerfile.stages[index.0];
        for node in self.dockerfile.stage_nodes(stage) {
            for (name, span) in source_names(node.instruction.as_ref()) {
                // A wrong name is reported in its turn, when the stage is planned.
                if let Ok(source) = self.copy_source(&name, index, platform, span) {
                    self.visit_source(&source, span)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a named context stands in for the whole stage.
    fn is_replaced(&self, index: StageIndex, context: &str) -> bool {
        let name = self.dockerfile.stages[index.0].name.as_deref();
        name.and_then(|name| self.named_context(name)).as_deref() == Some(context)
    }

    fn visit_source(&mut self, source: &Source, span: Span) -> Result<(), PlanError> {
        match source {
            Source::Stage(stage) => self.visit(*stage),
            Source::Image { .. } | Source::Named(_) => {
                if !self.configs.contains_key(source) {
                    self.needs.entry(source.clone()).or_insert(span);
                }
                Ok(())
            }
            Source::Scratch | Source::Context => Ok(()),
        }
    }

    /// The state that a stage begins with; `None` where the base's configuration is not known yet.
    fn state_of_base(
        &mut self,
        base: &Source,
        platform: &Platform,
        span: Span,
    ) -> Result<Option<StageState>, PlanError> {
        self.visit_source(base, span)?;
        Ok(match base {
            Source::Stage(stage) => self.done.get(stage).and_then(Option::as_ref).map(StageState::child),
            Source::Scratch => Some(StageState::scratch(platform)),
            source => self.configs.get(source).map(|config| StageState::from_image(config, platform)),
        })
    }

    fn plan_one(
        &mut self,
        index: StageIndex,
        base: &Source,
        platform: &Platform,
        state: StageState,
    ) -> Result<StageState, PlanError> {
        let stage = &self.dockerfile.stages[index.0];
        let replaced = matches!(base, Source::Named(context) if self.is_replaced(index, context));
        let resolve = |name: &str, span: Span| self.copy_source(name, index, platform, span);
        let state =
            plan_stage(self.dockerfile, stage, index, base, state, &self.globals, self.options, replaced, &resolve)?;
        // Triggers of the base may use stages and images that the stage itself does not name.
        let sources: Vec<Source> = state.plan.sources().cloned().collect();
        for source in &sources {
            self.visit_source(source, stage.base.span)?;
        }
        Ok(state)
    }
}

/// The names of other trees in an instruction.
fn source_names(instruction: Option<&Instruction>) -> Vec<(String, Span)> {
    match instruction {
        Some(Instruction::Copy(copy)) => copy.from.iter().map(|w| (w.text.clone(), w.span)).collect(),
        Some(Instruction::Run(run)) => super::run::mount_sources(run),
        _ => Vec::new(),
    }
}
