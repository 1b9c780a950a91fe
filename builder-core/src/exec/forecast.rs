//! What a build would do, found out without doing it: every step is looked up as a build looks it up.
//!
//! The key of a step that comes after one that would run is not known before that has run, because what it gives may
//! be what an earlier run gave. Only a `COPY --link` depends on nothing but its own files.

use std::collections::BTreeSet;
use std::time::Duration;

use super::build::{Build, StageKey, in_step, planned};
use super::earlier::written;
use super::layers::StackLayer;
use super::options::{BuildOptions, Cancel};
use super::stage::{Prepared, StageResult, StageRun};
use crate::cache::PreImage;
use crate::error::BuildError;
use crate::oci::{DiffId, ImageConfig};
use crate::plan::{Action, Source, StagePlan, Step};
use crate::progress::{Events, Miss, StepInfo};

/// What a build would do.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Every step that is needed, in order.
    pub steps: Vec<ForecastStep>,
}

/// What a build would do about a step.
#[derive(Debug, Clone)]
pub struct ForecastStep {
    /// The step.
    pub info: StepInfo,
    /// What would become of it.
    pub outlook: Outlook,
    /// How long it took when it was last done, as far as that is on record.
    pub last_took: Option<Duration>,
}

/// What would become of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// Its earlier result would be used.
    Cached,
    /// It would be done.
    Runs(Miss),
    /// A step that it depends on would be done, and decides what becomes of it.
    Depends,
}

impl Forecast {
    /// Whether no step would be done.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.steps.iter().all(|step| step.outlook == Outlook::Cached)
    }
}

/// Says what [`super::build`] would do with these options. No step is done, and no image is made; base images that the
/// store knows nothing of are asked for, and remote sources of ADD are fetched, as a build does to know the keys.
///
/// # Errors
/// As [`super::build`], as far as it comes.
pub fn forecast(options: &BuildOptions, events: Events, cancel: &Cancel) -> Result<Forecast, BuildError> {
    planned(options, events, cancel, |build, _| look_ahead(build))
}

fn look_ahead(mut build: Build<'_>) -> Result<Forecast, BuildError> {
    build.check_expectations()?;
    build.check_sources()?;
    let infos = build.announce();
    let mut ahead = Ahead { build: &build, open: BTreeSet::new(), outlooks: Vec::new() };
    for (key, plan) in build.plans() {
        ahead.stage(key, plan)?;
    }
    let outlooks = ahead.outlooks;
    build.write_stat_caches();
    let steps = infos.into_iter().zip(outlooks);
    Ok(Forecast {
        steps: steps.map(|(info, (outlook, last_took))| ForecastStep { info, outlook, last_took }).collect(),
    })
}

/// A forecast on its way.
struct Ahead<'b, 'o> {
    build: &'b Build<'o>,
    /// Stages whose result is not known yet.
    open: BTreeSet<StageKey>,
    outlooks: Vec<(Outlook, Option<Duration>)>,
}

impl Ahead<'_, '_> {
    fn is_known(&self, key: &StageKey, source: &Source) -> bool {
        match source {
            Source::Stage(stage) => !self.open.contains(&StageKey { platform: key.platform, stage: *stage }),
            Source::Scratch | Source::Context | Source::Named(_) | Source::Image { .. } => true,
        }
    }

    fn stage(&mut self, key: &StageKey, plan: &StagePlan) -> Result<(), BuildError> {
        let build = self.build;
        // Whether the tree that the next step is done to is known.
        let mut known = self.is_known(key, &plan.base);
        let stack = if known { super::stage::base(build, key, plan)?.0 } else { Vec::new() };
        let mut run = StageRun::new(build, key, plan, stack);
        for (number, step) in plan.steps.iter().enumerate() {
            let alone = matches!(&step.action, Action::Copy(copy) if copy.link);
            let decidable = (known || alone) && step.sources().into_iter().all(|source| self.is_known(key, source));
            let (outlook, result) = if decidable {
                build
                    .with_steady_files(step, |_| run.outlook(number, step))
                    .map_err(|error| in_step(error, plan, step))?
            } else {
                (Outlook::Depends, None)
            };
            match result {
                Some(diff_id) => run.push(StackLayer { diff_id, base_blob: None }),
                None => known = false,
            }
            let took = build.journal.counterparts(plan, number).find_map(|found| found.step.last_done(&found.build));
            self.outlooks.push((outlook, took.map(|run| Duration::from_millis(run.took_ms))));
        }
        if known {
            let result = StageResult { stack: run.stack, config: ImageConfig::default() };
            build.results.set(*key, Some(result));
        } else {
            self.open.insert(*key);
        }
        Ok(())
    }
}

impl StageRun<'_, '_> {
    /// Looks a step up; gives its result where there is one.
    fn outlook(&self, number: usize, step: &Step) -> Result<(Outlook, Option<DiffId>), BuildError> {
        self.build.check_cancelled()?;
        let mut inputs = PreImage::new();
        let mut prepared = self.prepare(step, &mut inputs)?;
        if !self.must_run()
            && let Some(record) = self.recorded(&inputs.key())
        {
            return Ok((Outlook::Cached, Some(record.diff_id)));
        }
        self.keep_promises(step)?;
        if let (Action::Copy(copy), Prepared::Copy(prepared)) = (&step.action, &mut prepared)
            && prepared.is_at_hand(&self.build.layers)
        {
            self.complete_copy(copy, prepared)?;
        }
        let earlier = self.earlier_run(number, &inputs, &written(step), &prepared)?;
        Ok((Outlook::Runs(earlier.miss), None))
    }
}
