//! Which stages a target needs, and what they start from.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_dockerfile::{Dockerfile, Span};

use super::arguments::{Globals, unused_args};
use super::error::PlanErrors;
use super::names::{Head, source_names};
use super::stage::{StageInput, plan_stage};
use super::state::StageState;
use super::step::{NetworkChoice, Source, StageIndex, StagePlan};
use super::target::{find_target, set_platform};
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

/// A source whose configuration planning needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The source.
    pub source: Source,
    /// The bytes of the Dockerfile that first name it; `None` for a plan without one.
    pub span: Option<Span>,
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
/// All that is wrong: unknown targets and stages, stages that need each other in a circle, values that do not expand or
/// can't be. They are told when no further configuration could bring up more.
pub fn plan(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    configs: &BTreeMap<Source, ImageConfig>,
) -> Result<Outcome, PlanErrors> {
    let mut planner = Planner::new(dockerfile, options, configs);
    let target = planner.errors.note(find_target(dockerfile, options));
    target.iter().for_each(|target| planner.visit(*target));
    if !planner.needs.is_empty() {
        let needed = planner.needs.into_iter().map(|(source, span)| Needed { source, span: Some(span) });
        return Ok(Outcome::Needs(needed.collect()));
    }
    let Some(target) = target.filter(|_| planner.errors.is_empty()) else { return Err(planner.errors) };
    let mut done = planner.done;
    let mut stages: Vec<StagePlan> =
        planner.order.iter().filter_map(|index| done.remove(index)).map(|state| state.plan).collect();
    if let Some(stage) = stages.iter_mut().find(|stage| stage.index == target) {
        stage.config.config.labels.extend(options.labels.clone());
        if options.platform_choice == PlatformChoice::Asked {
            set_platform(&mut stage.config, &options.platform);
        }
    }
    let unused_args = unused_args(dockerfile, options);
    Ok(Outcome::Plan(Plan { stages, target, unused_args }))
}

/// What shows of a Dockerfile that can't be planned as a whole, or need not be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Glance {
    /// All that is wrong.
    pub(crate) errors: PlanErrors,
    /// The stages, without the steps of which something is not known.
    pub(crate) stages: Vec<StagePlan>,
}

/// Looks through stages as far as that goes with the configurations given.
pub(crate) fn glance(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    configs: &BTreeMap<Source, ImageConfig>,
    stages: Stages,
) -> Glance {
    let mut planner = Planner::new(dockerfile, options, configs);
    match stages {
        Stages::Needed => {
            let target = planner.errors.note(find_target(dockerfile, options));
            target.iter().for_each(|target| planner.visit(*target));
        }
        Stages::NeededBy(stage) => planner.visit(stage),
        Stages::All => (0..dockerfile.stages.len()).for_each(|index| planner.visit(StageIndex(index))),
    }
    Glance { errors: planner.errors, stages: planner.done.into_values().map(|state| state.plan).collect() }
}

/// Which stages are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stages {
    /// Those that the target needs.
    Needed,
    /// Those that a stage needs.
    NeededBy(StageIndex),
    /// All of them.
    All,
}

pub(super) struct Planner<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) options: &'a PlanOptions,
    configs: &'a BTreeMap<Source, ImageConfig>,
    pub(super) globals: Globals,
    /// Of the stages so far; each only looks at those before it.
    pub(super) heads: Vec<Head>,
    done: BTreeMap<StageIndex, StageState>,
    order: Vec<StageIndex>,
    needs: BTreeMap<Source, Span>,
    errors: PlanErrors,
}

impl<'a> Planner<'a> {
    /// Reads what counts for every stage, needed or not: FROM lines, and names of other stages.
    fn new(dockerfile: &'a Dockerfile, options: &'a PlanOptions, configs: &'a BTreeMap<Source, ImageConfig>) -> Self {
        let mut globals = Globals::new(dockerfile, options);
        let errors = std::mem::take(&mut globals.errors);
        let mut planner = Self {
            dockerfile,
            options,
            configs,
            globals,
            heads: Vec::new(),
            done: BTreeMap::new(),
            order: Vec::new(),
            needs: BTreeMap::new(),
            errors,
        };
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            let head = planner.head(index, stage);
            let unknown = || Head { base: None, platform: options.platform.clone() };
            let head = planner.errors.note(head).unwrap_or_else(unknown);
            planner.heads.push(head);
        }
        let names = planner.check_names();
        planner.errors.append(names);
        planner
    }

    /// Plans a stage, after those that it needs, however long a chain they are.
    fn visit(&mut self, index: StageIndex) {
        if self.done.contains_key(&index) {
            return;
        }
        let mut open = vec![(index, self.uses(index).into_iter())];
        while let Some((index, uses)) = open.last_mut() {
            match uses.next() {
                Some((Source::Stage(stage), _)) if !self.done.contains_key(&stage) => {
                    open.push((stage, self.uses(stage).into_iter()));
                }
                Some((source, span)) => self.note_need(&source, span),
                None => {
                    let index = *index;
                    open.pop();
                    self.plan(index);
                }
            }
        }
    }

    /// Plans a stage. One whose base is not known is looked through as far as that goes.
    fn plan(&mut self, index: StageIndex) {
        let Head { base, platform } = self.heads[index.0].clone();
        let stage = &self.dockerfile.stages[index.0];
        let state = match &base {
            Some(base) => self.state_of_base(base, &platform),
            None => StageState::unknown(&platform),
        };
        let resolve = |name: &str, span: Span| self.copy_source(name, index, &platform, span);
        let input = StageInput {
            dockerfile: self.dockerfile,
            stage,
            index,
            base: base.as_ref(),
            replaced: self.is_replaced(index),
            globals: &self.globals,
            options: self.options,
            resolve: &resolve,
        };
        let mut errors = PlanErrors::default();
        let state = plan_stage(&input, state, &mut errors);
        self.errors.append(errors);
        // Triggers of the base may use stages and images that the stage itself does not name.
        let sources: Vec<Source> = state.plan.sources().cloned().collect();
        for source in &sources {
            match source {
                Source::Stage(stage) => self.visit(*stage),
                source => self.note_need(source, stage.base.span),
            }
        }
        self.done.insert(index, state);
        self.order.push(index);
    }

    /// What a stage uses as far as that is seen before its base is known, so that everything is asked for at once; the
    /// base is the last.
    fn uses(&self, index: StageIndex) -> Vec<(Source, Span)> {
        let Head { base, platform } = &self.heads[index.0];
        let stage = &self.dockerfile.stages[index.0];
        let nodes = if self.is_replaced(index) { &[] } else { self.dockerfile.stage_nodes(stage) };
        let named = nodes.iter().flat_map(|node| source_names(node.instruction.as_ref()));
        // A wrong name is reported in its turn, when the stage is planned.
        let found = |(name, span): (String, Span)| Some((self.copy_source(&name, index, platform, span).ok()?, span));
        let base = base.iter().map(|base| (base.clone(), stage.base.span));
        named.filter_map(found).chain(base).collect()
    }

    /// Notes that an image's configuration is needed, unless it is there.
    fn note_need(&mut self, source: &Source, span: Span) {
        match source {
            Source::Image { .. } | Source::Named(_) if !self.configs.contains_key(source) => {
                self.needs.entry(source.clone()).or_insert(span);
            }
            Source::Image { .. } | Source::Named(_) | Source::Stage(_) | Source::Scratch | Source::Context => {}
        }
    }

    /// The state that a stage begins with.
    fn state_of_base(&self, base: &Source, platform: &Platform) -> StageState {
        match base {
            Source::Stage(stage) => self.done[stage].child(),
            Source::Scratch => StageState::scratch(platform),
            source => match self.configs.get(source) {
                Some(config) => StageState::from_image(config, platform),
                None => StageState::unknown(platform),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> PlanOptions {
        PlanOptions {
            build_args: BTreeMap::new(),
            target: None,
            platform: Platform::new("linux", "amd64", ""),
            platform_choice: PlatformChoice::Machine,
            build_platform: Platform::new("linux", "amd64", ""),
            named_contexts: BTreeSet::new(),
            labels: BTreeMap::new(),
            network: NetworkChoice::Default,
            source_date_epoch: None,
        }
    }

    /// The lines of what is wrong, without any base image's configuration.
    fn wrong_lines(text: &str, stages: Stages) -> Vec<usize> {
        let (dockerfile, diagnostics) = rbuild_dockerfile::parse(text);
        assert!(!diagnostics.has_errors(), "{diagnostics:?}");
        let glance = glance(&dockerfile, &options(), &BTreeMap::new(), stages);
        let place = |error: crate::plan::PlanError| error.span.map_or(0, |span| dockerfile.lines().line(span.start));
        glance.errors.into_iter().map(place).collect()
    }

    #[test]
    fn what_only_follows_is_not_told() {
        for (text, lines) in [
            // A variable that may come from the base, and what is made of it.
            ("FROM base\nENV A=${B:?}\nEXPOSE ${A:?}\nEXPOSE x\n", &[4][..]),
            ("FROM base\nENV B=1\nENV A=${B:+$C} D=${B:?}\nSTOPSIGNAL $B$A\n", &[]),
            // A value that is wrong, in other instructions, stages and FROM lines.
            ("ARG A=${X:?}\nFROM --platform=$A scratch\nARG A\nEXPOSE ${A:?}\n", &[1]),
            ("FROM scratch AS a\nENV A=${X:?}\nFROM a\nRUN --mount=target=${A:?},type=cache x\nEXPOSE y\n", &[2, 5]),
            ("FROM scratch\nENV A=${X:?}\nENV A=1\nSTOPSIGNAL $A$A\nSTOPSIGNAL a$A\n", &[2, 5]),
            ("ARG A=${X:?}\nFROM $A\nENV P=$PATH\nEXPOSE ${PATH:?} z\n", &[1]),
            // The working directory of a base is not known.
            ("FROM base\nRUN --mount=type=cache x\n", &[]),
            ("FROM scratch\nRUN --mount=type=cache x\n", &[2]),
        ] {
            assert_eq!(wrong_lines(text, Stages::Needed), lines, "{text}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let text = "FROM scratch AS a\nEXPOSE x y\nFROM scratch\nCOPY --from=9 --chmod=z https://a.b/c https://a.b/d /\n\
                    LABEL a=${A:?} b=${B:?}\n";
        assert_eq!(wrong_lines(text, Stages::Needed), [4, 4, 4, 4, 5, 5]);
        assert_eq!(wrong_lines(text, Stages::All), [4, 2, 2, 4, 4, 4, 5, 5]);
        let mut options = options();
        options.target = Some("b".to_owned());
        let (dockerfile, _) = rbuild_dockerfile::parse(text);
        let errors = plan(&dockerfile, &options, &BTreeMap::new()).unwrap_err();
        assert_eq!(
            errors.into_iter().map(|error| error.code).collect::<Vec<_>>(),
            ["invalid-stage-index", "unknown-target"]
        );
    }

    #[test]
    fn bases_are_in_directories_as_workdir_has_them() {
        let (dockerfile, _) = rbuild_dockerfile::parse("FROM base\nWORKDIR sub\n");
        for (os, directory, inside) in
            [("linux", "rel", "/rel/rel/sub"), ("linux", "/a//b/", "/a/b/sub"), ("windows", "C:\\app", "\\app\\sub")]
        {
            let Ok(Outcome::Needs(needed)) = plan(&dockerfile, &options(), &BTreeMap::new()) else {
                panic!("the base is needed")
            };
            let mut config = ImageConfig::empty(&Platform::new(os, "amd64", ""));
            config.config.working_dir = directory.to_owned();
            let configs = BTreeMap::from([(needed[0].source.clone(), config)]);
            let Ok(Outcome::Plan(plan)) = plan(&dockerfile, &options(), &configs) else { panic!("the base is known") };
            assert_eq!(plan.stages[0].config.config.working_dir, inside, "{directory}");
        }
    }

    /// Each stage is built on the one before, or copies from it; a test has a small stack.
    #[test]
    fn chains_of_stages_may_be_long() {
        let mut text = "FROM scratch AS s0\n".to_owned();
        for number in 1..10_000 {
            text += &match number % 2 {
                0 => format!("FROM s{} AS s{number}\n", number - 1),
                _ => format!("FROM scratch AS s{number}\nCOPY --from=s{} / /\n", number - 1),
            };
        }
        let (dockerfile, _) = rbuild_dockerfile::parse(&text);
        let glance = glance(&dockerfile, &options(), &BTreeMap::new(), Stages::Needed);
        assert_eq!((glance.errors.into_iter().count(), glance.stages.len()), (0, 10_000));
    }

    #[test]
    fn later_stages_are_wrong_where_they_are_needed_and_in_circles() {
        let later = "FROM scratch AS a\nCOPY --from=b /x /y\nFROM scratch AS b\n";
        assert_eq!(wrong_lines(later, Stages::Needed), [] as [usize; 0]);
        assert_eq!(wrong_lines(later, Stages::All), [2]);
        let circle = format!("{later}COPY --from=a /y /z\nFROM scratch\n");
        assert_eq!(wrong_lines(&circle, Stages::Needed), [2]);
    }
}
