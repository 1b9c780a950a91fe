//! A build from its options to its result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use rbuild_dockerfile::Dockerfile;

use super::bases::{Bases, Resolved};
use super::context::{Context, DockerfileText};
use super::finish;
use super::host_files::{ExtraHost, resolv_conf};
use super::layers::{Layers, StackLayer, lock};
use super::options::{BuildOptions, Cancel, OutputKind, SshSource};
use super::scheduler::{Jobs, Results, run_all};
use super::ssh_agent::{AgentSource, HostAgent};
use super::stage::{StageResult, run_stage};
use crate::context::ContextDir;
use crate::context::IgnoreRules;
use crate::error::{BuildError, During, ErrorKind};
use crate::oci::{Descriptor, Digest, ImageConfig, Platform};
use crate::plan::{
    self, Needed, NetworkChoice, Outcome, Plan, PlanError, PlanOptions, Run, Source, StageIndex, StagePlan,
};
use crate::progress::{Event, Events, StepId, StepInfo, Warning};
use crate::registry::Client;
use crate::store::{Lease, Store};
use crate::sys::network::PrivateNetwork;
use crate::sys::sandbox::NetworkMode;
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
    pub(crate) jobs: Jobs,
    pub(crate) results: Results<StageKey, StageResult>,
    /// Names this Dockerfile in this place, to find its last build by.
    pub(crate) identity: String,
    context: Context,
    epoch_text: Option<String>,
    plans: BTreeMap<StageKey, StagePlan>,
    first_steps: BTreeMap<StageKey, usize>,
    exported: BTreeSet<StageKey>,
    platforms: Vec<Platform>,
    client: OnceLock<Arc<Client>>,
    network: OnceLock<Option<Arc<PrivateNetwork>>>,
    agents: Mutex<BTreeMap<String, Arc<HostAgent>>>,
    agent_folder: OnceLock<crate::store::TempDir>,
    folders: Mutex<Vec<Arc<ContextDir>>>,
    used_caches: Mutex<BTreeSet<String>>,
    background: Mutex<Vec<JoinHandle<()>>>,
    host_bundle: OnceLock<Option<Vec<u8>>>,
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
    let store = Store::open(&options.store).during(|| format!("open the store `{}`", options.store.display()))?;
    let _lease: Lease = store.lease().during(|| "use the store".to_owned())?;
    let fetcher = Fetcher { store: &store, options };
    let (context, text) = super::context::open(options, &store, &fetcher)?;
    let DockerfileText { name, text } = text;
    let result = super::heal::healing(events, |events| {
        build_text(options, events, cancel, store.clone(), context.clone(), &name, &text)
    });
    result.map_err(|mut error| {
        error.dockerfile.get_or_insert((name, text));
        error
    })
}

fn build_text(
    options: &BuildOptions,
    events: Events,
    cancel: &Cancel,
    store: Store,
    context: Context,
    name: &str,
    text: &str,
) -> Result<BuildResult, BuildError> {
    let (dockerfile, diagnostics) = rbuild_dockerfile::parse(text);
    if diagnostics.has_errors() {
        return Err(ErrorKind::Dockerfile(diagnostics.into_iter().collect()).into());
    }
    check_syntax(&dockerfile, &options.build_args)?;
    let mut build = Build::new(options, events, cancel, store, context, name);
    let targets = build.plan(&dockerfile)?;
    build.epoch = build.source_date_epoch()?;
    super::check::warn(&build, &dockerfile, &diagnostics)?;
    run_plan(build, &targets)
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
    let context = super::context::open_without_dockerfile(options, &store)?;
    let target = StageKey { platform: 0, stage: last.index };
    let mut build = Build::new(options, events, cancel, store, context, "");
    build.platforms = vec![last.platform.clone()];
    let mut sources: Vec<Source> =
        stages.iter().flat_map(|stage| stage.sources().chain([&stage.base]).cloned()).collect();
    sources.retain(|source| matches!(source, Source::Image { .. } | Source::Named(_)));
    sources.sort();
    sources.dedup();
    let needed: Vec<Needed> = sources.into_iter().map(|source| Needed { source, span: None }).collect();
    build.bases.resolve_all(&build, &needed)?;
    build.plans = stages.into_iter().map(|stage| (StageKey { platform: 0, stage: stage.index }, stage)).collect();
    build.mark_exported(&[target]);
    run_plan(build, &[target])
}

/// Does what was planned.
fn run_plan(mut build: Build<'_>, targets: &[StageKey]) -> Result<BuildResult, BuildError> {
    build.check_commands_can_run()?;
    build.announce();
    let keys: Vec<StageKey> = build.plans.keys().copied().collect();
    let ran = run_all(&keys, &build.results, &build.stop, |key| run_stage(&build, key, &build.plans[key]));
    build.wait_for_background();
    build.write_stat_caches();
    if build.cancel.is_cancelled() {
        return Err(BuildError::cancelled());
    }
    ran?;
    finish::finish(&build, targets)
}

/// Names a Dockerfile in its place.
fn identity(options: &BuildOptions, name: &str) -> String {
    let context = match &options.context {
        super::options::ContextInput::Directory(path) => {
            path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string()
        }
        super::options::ContextInput::Remote(text) => text.clone(),
        super::options::ContextInput::Archive(_) | super::options::ContextInput::Empty => String::new(),
    };
    format!("{context}\0{name}")
}

/// The build argument that names the Dockerfile's language in place of its `# syntax=` line.
const SYNTAX_ARG: &str = "BUILDKIT_SYNTAX";

/// Refuses languages that are not built in.
fn check_syntax(dockerfile: &Dockerfile, build_args: &BTreeMap<String, String>) -> Result<(), BuildError> {
    let directive = dockerfile.directives.syntax.as_ref();
    let (image, asked, remedy, span) = match (build_args.get(SYNTAX_ARG), directive) {
        (Some(value), _) => {
            let image = value.split_whitespace().next().unwrap_or_default();
            (image, format!("--build-arg {SYNTAX_ARG}={image}"), "leave the argument out", None)
        }
        (None, Some(directive)) => {
            let image = directive.value.as_str();
            (image, format!("# syntax={image}"), "remove the line", Some(directive.span))
        }
        (None, None) => return Ok(()),
    };
    let name = image.split(['@', ':']).next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream") {
        return Ok(());
    }
    Err(BuildError::plan(
        format!("`{asked}` asks for another Dockerfile language"),
        format!("rbuild has docker/dockerfile built in and runs no other frontends; {remedy}, or build with BuildKit"),
        span.map(|span| span.start..span.end),
    ))
}

impl From<PlanError> for BuildError {
    fn from(error: PlanError) -> Self {
        Self::plan(error.message, error.help, error.span.map(|span| span.start..span.end))
    }
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
        let jobs =
            if options.jobs == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { options.jobs };
        Self {
            options,
            events,
            cancel,
            stop: Cancel::new(),
            epoch: options.epoch,
            layers: Arc::new(Layers::new(store)),
            bases: Bases::default(),
            jobs: Jobs::new(jobs),
            results: Results::new(),
            identity: identity(options, name),
            context,
            epoch_text: None,
            plans: BTreeMap::new(),
            first_steps: BTreeMap::new(),
            exported: BTreeSet::new(),
            platforms,
            client: OnceLock::new(),
            network: OnceLock::new(),
            agents: Mutex::default(),
            agent_folder: OnceLock::new(),
            folders: Mutex::default(),
            used_caches: Mutex::default(),
            background: Mutex::default(),
            host_bundle: OnceLock::new(),
        }
    }

    /// Every stage that is needed.
    pub(crate) const fn plans(&self) -> &BTreeMap<StageKey, StagePlan> {
        &self.plans
    }

    /// What planning is told for a platform.
    pub(crate) fn plan_options(&self, platform: &Platform) -> PlanOptions {
        PlanOptions {
            build_args: self.options.build_args.clone(),
            target: self.options.target.clone(),
            platform: platform.clone(),
            build_platform: Platform::host(),
            named_contexts: self.options.named_contexts.keys().cloned().collect(),
            labels: self.options.labels.clone(),
            network: self.options.network,
        }
    }

    /// The ignore rules of the build context, where it is a folder.
    pub(crate) fn context_rules(&self) -> Option<&IgnoreRules> {
        self.context.folder.as_ref().map(|(folder, _)| folder.rules())
    }

    /// Plans every platform, fetching the configurations that this takes; gives the target of each.
    fn plan(&mut self, dockerfile: &Dockerfile) -> Result<Vec<StageKey>, BuildError> {
        let mut targets = Vec::new();
        let mut unused: Option<BTreeSet<String>> = None;
        for number in 0..self.platforms.len() {
            let plan = self.plan_platform(dockerfile, &self.platforms[number].clone())?;
            targets.push(StageKey { platform: number, stage: plan.target });
            self.epoch_text.clone_from(&plan.source_date_epoch);
            let args: BTreeSet<String> = plan.unused_args.iter().cloned().collect();
            unused = Some(unused.map_or(args.clone(), |before| before.intersection(&args).cloned().collect()));
            for stage in plan.stages {
                self.plans.insert(StageKey { platform: number, stage: stage.index }, stage);
            }
        }
        self.mark_exported(&targets);
        for name in unused.unwrap_or_default() {
            self.events.event(Event::Warning(Warning {
                rule: "unused-build-arg".to_owned(),
                message: format!("the build argument `{name}` is declared nowhere"),
                help: format!("declare it with `ARG {name}`, or leave --build-arg {name} out"),
                span: None,
            }));
        }
        Ok(targets)
    }

    fn plan_platform(&self, dockerfile: &Dockerfile, platform: &Platform) -> Result<Plan, BuildError> {
        let options = self.plan_options(platform);
        loop {
            match plan::plan(dockerfile, &options, &self.bases.configs())? {
                Outcome::Plan(plan) => return Ok(plan),
                Outcome::Needs(needed) => self.bases.resolve_all(self, &needed)?,
            }
            self.check_cancelled()?;
        }
    }

    /// The time that SOURCE_DATE_EPOCH names: the caller's, or that of the build argument or global ARG.
    fn source_date_epoch(&self) -> Result<Option<i64>, BuildError> {
        if self.options.epoch.is_some() {
            return Ok(self.options.epoch);
        }
        let Some(text) = self.epoch_text.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            BuildError::usage(
                format!("SOURCE_DATE_EPOCH is `{text}`, which is no time"),
                "give it as a number of seconds since 1970-01-01 00:00 UTC",
            )
        })
    }

    /// Notes which stages' layers become part of an image.
    fn mark_exported(&mut self, targets: &[StageKey]) {
        if !self.makes_image() {
            return;
        }
        for target in targets {
            let mut key = *target;
            while self.exported.insert(key) {
                let Some(Source::Stage(stage)) = self.plans.get(&key).map(|plan| plan.base.clone()) else { break };
                key.stage = stage;
            }
        }
    }

    /// Tells all steps, numbered.
    fn announce(&mut self) {
        let several = self.platforms.len() > 1;
        let mut steps = Vec::new();
        for (key, plan) in &self.plans {
            self.first_steps.insert(*key, steps.len());
            let count = plan.steps.len();
            steps.extend(plan.steps.iter().enumerate().map(|(number, step)| StepInfo {
                stage: plan.name.clone(),
                position: Some((number + 1, count)),
                name: step.name.clone(),
                span: step.span.clone(),
                platform: several.then(|| plan.platform.clone()),
            }));
        }
        self.events.event(Event::Planned { steps });
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

    /// The time of what is made now: seconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        self.epoch.unwrap_or(self.options.now)
    }

    /// The latest time that a file may have.
    pub(crate) fn file_epoch(&self) -> Option<i64> {
        self.epoch.filter(|_| self.options.rewrite_timestamps)
    }

    /// Writes a time as the configuration has it (RFC 3339).
    pub(crate) fn timestamp(&self, recorded: i64) -> String {
        let seconds = self.epoch.unwrap_or(recorded);
        jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
    }

    pub(crate) fn client(&self) -> Result<Arc<Client>, BuildError> {
        if let Some(client) = self.client.get() {
            return Ok(Arc::clone(client));
        }
        let client = Client::new(self.options.registry.clone()).during(|| "prepare to reach registries".to_owned())?;
        Ok(Arc::clone(self.client.get_or_init(|| Arc::new(client))))
    }

    pub(crate) fn fetcher(&self) -> Fetcher<'_> {
        Fetcher { store: self.layers.store(), options: self.options }
    }

    pub(crate) fn context_view(&self) -> Arc<dyn TreeView> {
        Arc::clone(&self.context.view)
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
                    let stack = super::materialize::single(self.layers.materialize(&part)?);
                    Ok((stack, ImageConfig::empty(&plan.platform)))
                }
            },
        }
    }

    /// Refuses what needs a permission that was not given.
    pub(crate) fn check_entitlements(&self, run: &Run) -> Result<(), BuildError> {
        let host = run.network == NetworkChoice::Host && self.options.network != NetworkChoice::Host;
        let needed = [(host, "network.host"), (run.insecure, "security.insecure"), (!run.devices.is_empty(), "device")];
        for (needed, name) in needed {
            let allowed = self.options.allow.iter().any(|a| a == name || a.starts_with(&format!("{name}=")));
            if needed && !allowed {
                return Err(BuildError::plan(
                    format!("the step needs the entitlement `{name}`, which was not granted"),
                    format!("allow it with --allow {name}"),
                    None,
                ));
            }
        }
        if !run.devices.is_empty() {
            return Err(BuildError::plan(
                "`RUN --device` is not in this version",
                "build this step with BuildKit, or without the device",
                None,
            ));
        }
        Ok(())
    }

    /// The network that all commands of the build share: started for the first that needs it.
    fn private_network(&self) -> Option<Arc<PrivateNetwork>> {
        self.network
            .get_or_init(|| {
                let path = std::env::join_paths(&self.options.program_path).unwrap_or_default();
                match PrivateNetwork::start(&path) {
                    Ok(network) => {
                        self.events.event(Event::Note("network: a private one, through pasta".to_owned()));
                        Some(Arc::new(network))
                    }
                    Err(error) => {
                        self.events.event(Event::Note(format!(
                            "network: the host's, because a private one can't be had ({error})"
                        )));
                        None
                    }
                }
            })
            .clone()
    }

    pub(crate) fn default_network(&self) -> NetworkMode {
        self.private_network().map_or(NetworkMode::Host, |network| network.mode())
    }

    pub(crate) fn has_own_network(&self, choice: NetworkChoice) -> bool {
        match choice {
            NetworkChoice::Default => self.private_network().is_some(),
            NetworkChoice::None => true,
            NetworkChoice::Host => false,
        }
    }

    /// What `/etc/resolv.conf` of a command with that network holds.
    pub(crate) fn resolv_conf(&self, choice: NetworkChoice) -> Vec<u8> {
        resolv_conf(self.has_own_network(choice))
    }

    pub(crate) fn extra_hosts(&self) -> Vec<ExtraHost> {
        self.options
            .extra_hosts
            .iter()
            .filter_map(|(name, address)| Some(ExtraHost { name: name.clone(), address: address.parse().ok()? }))
            .collect()
    }

    /// The bundle of certificate authorities that this machine trusts, for images that have none of their own.
    pub(crate) fn host_bundle(&self) -> Option<&[u8]> {
        const BUNDLES: [&str; 4] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        self.host_bundle.get_or_init(|| BUNDLES.iter().find_map(|path| std::fs::read(path).ok())).as_deref()
    }

    pub(crate) fn ssh_agent(&self, id: &str) -> Result<Arc<HostAgent>, BuildError> {
        let mut agents = lock(&self.agents);
        if let Some(agent) = agents.get(id) {
            return Ok(Arc::clone(agent));
        }
        let action = || format!("open the ssh agent `{id}`");
        let source = match &self.options.ssh[id] {
            SshSource::Agent(path) => AgentSource::Socket(path.clone()),
            SshSource::Keys(paths) => AgentSource::from_paths(paths, None).during(action)?,
        };
        let folder = match self.agent_folder.get() {
            Some(folder) => folder,
            None => {
                let folder = self.layers.store().temp_dir("ssh").during(action)?;
                self.agent_folder.get_or_init(|| folder)
            }
        };
        let path = std::env::join_paths(&self.options.program_path).unwrap_or_default();
        let agent = Arc::new(HostAgent::open(&source, folder.path(), &path).during(action)?);
        agents.insert(id.to_owned(), Arc::clone(&agent));
        Ok(agent)
    }

    /// Whether this build has not used a cache mount before: `--no-cache` empties each once.
    pub(crate) fn first_use_of_cache(&self, id: &str) -> bool {
        lock(&self.used_caches).insert(id.to_owned())
    }

    /// Keeps a folder whose digests are to be written down when the build is done.
    pub(crate) fn keep_folder(&self, folder: Arc<ContextDir>) {
        lock(&self.folders).push(folder);
    }

    /// Keeps the digests of files for the next build. Only speed is lost where that fails.
    fn write_stat_caches(&self) {
        for folder in self.context.folder.iter().map(|(folder, _)| folder).chain(lock(&self.folders).iter()) {
            if let Err(error) = folder.save_stat_cache() {
                self.events.event(Event::Note(format!("could not keep the digests of the build context: {error}")));
            }
        }
    }

    /// Compresses a layer while the next step runs. A failure shows when the image is put together.
    pub(crate) fn compress_in_background(&self, layer: &StackLayer) {
        let (layers, layer, compression) = (Arc::clone(&self.layers), layer.clone(), self.options.compression);
        let handle = std::thread::spawn(move || {
            // The image's assembly tries again and reports what is wrong.
            let _ = layers.blob(&layer, compression);
        });
        lock(&self.background).push(handle);
    }

    fn wait_for_background(&self) {
        let handles: Vec<_> = std::mem::take(&mut *lock(&self.background));
        for handle in handles {
            let _ = handle.join();
        }
    }
}
