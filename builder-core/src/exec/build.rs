//! A build from its options to its result.

mod background;
mod checks;
mod epoch;
mod planning;
mod services;

pub(super) use checks::in_step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::bases::{Bases, Resolved};
use super::carry::{self, Carry};
use super::context::{Context, DockerfileText};
use super::devices::Registry;
use super::finish;
use super::jobs::Jobs;
use super::journal::Journal;
use super::layers::{Layers, StackLayer, Stops};
use super::mounts::MountPointFolders;
use super::options::{BuildOptions, Cancel, ExpectCached, OutputKind};
use super::removal::Remover;
use super::scheduler::{Results, run_all};
use super::ssh_agent::HostAgent;
use super::stage::{StageResult, run_stage};
use super::unread_copy::Outlines;
use crate::context::ContextDir;
use crate::context::IgnoreRules;
use crate::error::{BuildError, During, ErrorKind};
use crate::oci::{Descriptor, Digest, ImageConfig, Platform};
use crate::plan::{Needed, Source, StageIndex, StagePlan};
use crate::progress::{Events, StepId};
use crate::registry::Client;
use crate::store::{Lease, Store};
use crate::sys::network::PrivateNetwork;
use crate::tree::TreeView;

/// A finished build.
#[derive(Debug, Clone)]
pub struct BuildResult {
    /// The manifest, or the index where several platforms were built. `None` where only files were asked for.
    pub manifest: Option<Descriptor>,
    /// The image of each platform.
    pub images: Vec<BuiltImage>,
}

/// A finished image of one platform.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The platform.
    pub platform: Platform,
    /// The manifest. `None` where only files were asked for.
    pub manifest: Option<Descriptor>,
    /// The digest of the configuration. `None` where only files were asked for.
    pub config_digest: Option<Digest>,
    /// The configuration.
    pub config: ImageConfig,
}

/// A stage of a platform of the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StageKey {
    pub(crate) platform: usize,
    pub(crate) stage: StageIndex,
}

/// What all parts of a running build share.
pub(crate) struct Build<'o> {
    pub(crate) options: &'o BuildOptions,
    pub(crate) events: Events,
    /// The caller's wish to stop.
    pub(crate) cancel: &'o Cancel,
    /// Set when one step failed, so that the others stop.
    pub(crate) stop: Cancel,
    /// `SOURCE_DATE_EPOCH`: seconds.
    pub(crate) epoch: Option<i64>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) bases: Bases,
    /// Results of steps that come from and go to other machines.
    pub(crate) carry: Arc<Carry>,
    pub(crate) jobs: Jobs,
    pub(crate) results: Results<StageKey, StageResult>,
    /// Names this Dockerfile in this place, to find its last build by.
    pub(crate) identity: String,
    pub(crate) journal: Journal,
    pub(crate) outlines: Outlines,
    context: Context,
    /// What ARG gives for `SOURCE_DATE_EPOCH`, once that is found.
    epoch_text: Option<String>,
    plans: BTreeMap<StageKey, StagePlan>,
    first_steps: BTreeMap<StageKey, usize>,
    exported: BTreeSet<StageKey>,
    platforms: Vec<Platform>,
    client: OnceLock<Arc<Client>>,
    network: OnceLock<Option<PrivateNetwork>>,
    /// Whether it could be connected, once that was tried.
    network_connected: OnceLock<bool>,
    pub(crate) remover: Remover,
    pub(crate) mount_points: MountPointFolders,
    agents: Mutex<BTreeMap<String, Arc<HostAgent>>>,
    agent_folder: OnceLock<crate::store::TempDir>,
    folders: Mutex<Vec<Arc<ContextDir>>>,
    used_caches: Mutex<BTreeSet<String>>,
    background: Mutex<background::Background>,
    started: Instant,
    host_bundle: OnceLock<Option<Vec<u8>>>,
    devices: OnceLock<Registry>,
}

/// Fetches git repositories and web addresses for a build.
pub(crate) struct Fetcher<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a BuildOptions,
}

/// Builds an image.
///
/// Events are sent from several threads. Nothing is left running, mounted or half-written when this returns; every step
/// that finished stays in the store and is not done again.
///
/// # Errors
/// When the Dockerfile is wrong, a step fails, something can't be fetched, read or written, or `cancel` is set.
pub fn build(options: &BuildOptions, events: Events, cancel: &Cancel) -> Result<BuildResult, BuildError> {
    planned(options, events, cancel, run_plan)
}

/// Plans the build of a Dockerfile, and goes on with `work`.
pub(super) fn planned<T>(
    options: &BuildOptions,
    events: Events,
    cancel: &Cancel,
    work: impl Fn(Build<'_>, &[StageKey]) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let store = Store::open(&options.store).during(|| format!("open the store `{}`", options.store.display()))?;
    let _lease: Lease = store.lease().during(|| "use the store".to_owned())?;
    super::room::use_limit(&store, options);
    let fetcher = Fetcher { store: &store, options };
    let (context, text) = super::context::open(options, &store, &fetcher)?;
    let DockerfileText { name, text } = text;
    let carry = Arc::new(Carry::new(options));
    let result = super::heal::healing(&store, Arc::clone(&events), |events| {
        carry::retrying(&carry, &Arc::clone(&events), || {
            let (dockerfile, diagnostics) = rbuild_dockerfile::parse(&text);
            if diagnostics.has_errors() {
                return Err(ErrorKind::Dockerfile(diagnostics.into_iter().collect()).into());
            }
            planning::check_syntax(&dockerfile, &options.build_args)?;
            finish::makes_index(options)?;
            carry::is_inline(options)?;
            let mut build = Build::new(options, Arc::clone(&events), cancel, store.clone(), context.clone(), &name);
            build.carry = Arc::clone(&carry);
            build.find_epoch(&dockerfile)?;
            let targets = build.plan(&dockerfile)?;
            super::check::warn(&build, &dockerfile, &diagnostics)?;
            work(build, &targets)
        })
    });
    drop(context);
    super::room::keep_limit(&store, &events);
    result.map_err(|mut error| {
        error.dockerfile.get_or_insert((name, text));
        error
    })
}

/// Builds an image from stages that the caller planned, each after those that it needs; the last one is the image.
///
/// What the options say of Dockerfiles (targets, build arguments, labels, platforms) has no part in it.
///
/// # Errors
/// As [`build`], and when there is no stage.
pub fn build_plan(
    options: &BuildOptions,
    stages: Vec<StagePlan>,
    events: Events,
    cancel: &Cancel,
) -> Result<BuildResult, BuildError> {
    let Some(last) = stages.last() else {
        return Err(BuildError::usage("the plan has no stages", "plan at least one"));
    };
    let store = Store::open(&options.store).during(|| format!("open the store `{}`", options.store.display()))?;
    let _lease: Lease = store.lease().during(|| "use the store".to_owned())?;
    super::room::use_limit(&store, options);
    let context = super::context::open_without_dockerfile(options, &store)?;
    let target = StageKey { platform: 0, stage: last.index };
    let carry = Arc::new(Carry::new(options));
    let result = carry::retrying(&carry, &Arc::clone(&events), || {
        let mut build = Build::new(options, Arc::clone(&events), cancel, store.clone(), context.clone(), "");
        build.carry = Arc::clone(&carry);
        build_stages(build, stages.clone(), target)
    });
    super::room::keep_limit(&store, &events);
    result
}

fn build_stages(mut build: Build<'_>, stages: Vec<StagePlan>, target: StageKey) -> Result<BuildResult, BuildError> {
    let last = stages.last().expect("a plan without stages was refused");
    build.platforms = vec![last.platform.clone()];
    let mut sources: Vec<Source> =
        stages.iter().flat_map(|stage| stage.sources().chain([&stage.base]).cloned()).collect();
    sources.retain(|source| matches!(source, Source::Image { .. } | Source::Named(_)));
    sources.sort();
    sources.dedup();
    let needed: Vec<Needed> = sources.into_iter().map(|source| Needed { source, span: None }).collect();
    BuildError::unless_none(build.bases.resolve_all(&build, &needed))?;
    build.plans = stages.into_iter().map(|stage| (StageKey { platform: 0, stage: stage.index }, stage)).collect();
    build.mark_exported(&[target]);
    run_plan(build, &[target])
}

/// Does what was planned.
fn run_plan(mut build: Build<'_>, targets: &[StageKey]) -> Result<BuildResult, BuildError> {
    build.check_expectations()?;
    build.announce();
    build.check_steps()?;
    let result = run_steps(&build, targets);
    // A try that is followed by another is no build of its own.
    if result.is_ok() || !build.carry.losses().has_news() {
        build.journal.write(&build, &result);
    }
    result
}

fn run_steps(build: &Build<'_>, targets: &[StageKey]) -> Result<BuildResult, BuildError> {
    let keys: Vec<StageKey> = build.plans.keys().copied().collect();
    let work = |key: &StageKey| run_stage(build, key, &build.plans[key]);
    let run = |keys: &[StageKey]| run_all(keys, build.jobs.limit(), &build.results, &build.stop, work);
    let ran = match build.options.expect_cached {
        // One after the other, so that it is always the first step in order that is named.
        ExpectCached::All => keys.chunks(1).try_for_each(run),
        ExpectCached::Nothing | ExpectCached::Stages(_) => run(&keys),
    };
    build.wait_for_background();
    build.write_stat_caches();
    if build.cancel.is_cancelled() {
        return Err(BuildError::cancelled());
    }
    let result = ran.and_then(|()| finish::finish(build, targets));
    carry::export(build, targets, result)
}

/// Names a Dockerfile in its place.
pub(super) fn identity(options: &BuildOptions, name: &str) -> String {
    let context = match &options.context {
        super::options::ContextInput::Directory(path) => {
            path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string()
        }
        super::options::ContextInput::Remote(text) => text.clone(),
        super::options::ContextInput::Archive(_) | super::options::ContextInput::Empty => String::new(),
    };
    format!("{context}\0{name}")
}

impl<'o> Build<'o> {
    /// A build of which nothing is done yet.
    pub(crate) fn new(
        options: &'o BuildOptions,
        events: Events,
        cancel: &'o Cancel,
        store: Store,
        context: Context,
        name: &str,
    ) -> Self {
        let platforms = if options.platforms.is_empty() { vec![Platform::host()] } else { options.platforms.clone() };
        let jobs = if options.jobs == 0 { crate::sys::threads::processors() } else { options.jobs };
        let identity = identity(options, name);
        let journal = Journal::new(store.clone(), &identity);
        let tokens = options.job_tokens.clone().unwrap_or_else(|| store.root().join("locks"));
        let stop = Cancel::new();
        let stops = Stops { cancel: cancel.clone(), failed: stop.clone() };
        let layers = Arc::new(Layers::new(store, stops, Some(Arc::clone(&events))));
        Self {
            options,
            events,
            cancel,
            epoch: options.epoch,
            layers,
            stop,
            bases: Bases::default(),
            jobs: Jobs::new(jobs, tokens, crate::sys::usage::available_memory),
            carry: Arc::new(Carry::new(options)),
            results: Results::new(),
            identity,
            journal,
            outlines: Outlines::default(),
            context,
            epoch_text: None,
            plans: BTreeMap::new(),
            first_steps: BTreeMap::new(),
            exported: BTreeSet::new(),
            platforms,
            client: OnceLock::new(),
            network: OnceLock::new(),
            network_connected: OnceLock::new(),
            remover: Remover::default(),
            mount_points: MountPointFolders::default(),
            agents: Mutex::default(),
            agent_folder: OnceLock::new(),
            folders: Mutex::default(),
            used_caches: Mutex::default(),
            background: Mutex::default(),
            started: Instant::now(),
            host_bundle: OnceLock::new(),
            devices: OnceLock::new(),
        }
    }

    /// Every stage that is needed.
    pub(crate) const fn plans(&self) -> &BTreeMap<StageKey, StagePlan> {
        &self.plans
    }

    /// The ignore rules of the build context, where it is a folder.
    pub(crate) fn context_rules(&self) -> Option<&IgnoreRules> {
        self.context.folder.as_ref().map(|(folder, _)| folder.rules())
    }

    pub(crate) fn step_id(&self, key: &StageKey, number: usize) -> StepId {
        StepId(self.first_steps[key] + number)
    }

    /// Whether an image is wanted, and not only its files.
    pub(crate) fn makes_image(&self) -> bool {
        let files = |kind| matches!(kind, OutputKind::Local | OutputKind::Tar);
        self.options.outputs.is_empty()
            || self.options.push
            || !self.options.tags.is_empty()
            || self.options.outputs.iter().any(|output| !files(output.kind))
    }

    pub(crate) fn is_exported(&self, key: &StageKey) -> bool {
        self.exported.contains(key)
    }

    pub(crate) fn target_platform(&self) -> Platform {
        self.platforms[0].clone()
    }

    pub(crate) fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    pub(crate) fn check_cancelled(&self) -> Result<(), BuildError> {
        if self.stop.is_cancelled() || self.cancel.is_cancelled() { Err(BuildError::cancelled()) } else { Ok(()) }
    }

    pub(crate) fn context_view(&self) -> Arc<dyn TreeView> {
        Arc::clone(&self.context.view)
    }

    pub(crate) const fn context(&self) -> &Context {
        &self.context
    }

    /// The folder that the context is, and the name of its ignore file.
    pub(crate) fn context_folder(&self) -> Option<&(Arc<ContextDir>, String)> {
        self.context.folder.as_ref()
    }

    pub(crate) fn stage_name(&self, platform: usize, stage: StageIndex) -> String {
        self.plans.get(&StageKey { platform, stage }).map_or_else(|| stage.0.to_string(), |plan| plan.name.clone())
    }

    pub(crate) fn stage_result(&self, platform: usize, stage: StageIndex) -> Result<Arc<StageResult>, BuildError> {
        self.results.wait(&StageKey { platform, stage })
    }

    /// The layers of an image; `None` for a folder.
    pub(crate) fn image_stack(&self, source: &Source) -> Option<Vec<StackLayer>> {
        match self.bases.resolved(source)? {
            Resolved::Image(base) => Some(base.stack.clone()),
            Resolved::Folder(_) => None,
        }
    }

    /// What a stage starts from, where that is no other stage.
    pub(crate) fn base_of(
        &self,
        source: &Source,
        plan: &StagePlan,
    ) -> Result<(Vec<StackLayer>, ImageConfig), BuildError> {
        match source {
            Source::Scratch => Ok((Vec::new(), ImageConfig::empty(&plan.platform))),
            source => match self.bases.resolved(source).expect("planning asked for every base") {
                Resolved::Image(base) => Ok((base.stack.clone(), base.config.clone())),
                Resolved::Folder(view) => {
                    let part = super::materialize::part_of(&*view, &crate::tree::TreePath::root())
                        .during(|| "read the folder that the stage starts from".to_owned())?
                        .expect("a root always exists");
                    let stack = super::materialize::single(self.layers.materialize(&part.digest, || Ok(part.changes))?);
                    Ok((stack, ImageConfig::empty(&plan.platform)))
                }
            },
        }
    }
}
