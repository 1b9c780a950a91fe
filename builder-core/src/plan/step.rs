//! Steps: what is left of an instruction once everything in it is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::chmod::ChmodSpec;
use rbuild_dockerfile::mount::Mount;

use super::run::HOSTNAME;
use super::variables::DEFAULT_PATH;
use crate::oci::{History, ImageConfig, Platform};

/// The index of a stage in the Dockerfile, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageIndex(pub usize);

/// Where a tree that a stage starts from, copies from or mounts comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// No files at all.
    Scratch,
    /// The main build context.
    Context,
    /// The result of another stage.
    Stage(StageIndex),
    /// A named context, by its name.
    Named(String),
    /// An image of a registry or the local store, by its reference as written, for one platform.
    Image {
        /// The reference.
        reference: String,
        /// The platform it is wanted for.
        platform: Platform,
    },
}

/// One thing to do to a stage's tree.
#[derive(Debug, Clone)]
pub struct Step {
    /// The instruction as written, with variables expanded where it expands them, on one line.
    pub name: String,
    /// The bytes of the Dockerfile that it comes from; `None` for a trigger of a base image.
    pub span: Option<Range<usize>>,
    /// What it does.
    pub action: Action,
    /// The entry of the image's history that belongs to it.
    pub history: usize,
    /// What it is in the Dockerfile, for telling why it is done again.
    pub origin: Origin,
}

/// What a step is in the Dockerfile, before anything was expanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The instruction's text, continuation lines joined, without heredocs; empty for a step planned by hand.
    pub text: String,
    /// Variables that were expanded in it, with their values.
    pub variables: Vec<UsedVariable>,
    /// The bodies of its heredocs by name, as written.
    pub heredocs: Vec<(String, Arc<str>)>,
}

/// A variable that an instruction uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether ARG set it, and no ENV.
    pub is_arg: bool,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Runs a command.
    Run(Box<Run>),
    /// Copies files.
    Copy(Box<Copy>),
    /// Makes a directory and its parents, unless they are there.
    MakeDirectory {
        /// The absolute path.
        path: String,
        /// Its owner, as USER has it.
        owner: String,
    },
}

/// A command to run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The environment, in order; proxies are apart.
    pub env: Vec<(String, String)>,
    /// Which of its variables ARG set, and no ENV.
    pub args: BTreeSet<String>,
    /// Proxy variables: part of the environment and of no key.
    pub proxy_env: Vec<(String, String)>,
    /// The absolute working directory.
    pub working_dir: String,
    /// The user, as USER has it; empty for root.
    pub user: String,
    /// The mounts, in order, and where those with `from=` come from.
    pub mounts: Vec<(Mount, Option<Source>)>,
    /// Which bytes of the Dockerfile each of `mounts` is; empty for a trigger.
    pub mount_places: Vec<Range<usize>>,
    /// `default`, `none` or `host`.
    pub network: NetworkChoice,
    /// Whether it runs without the sandbox's restrictions.
    pub insecure: bool,
    /// Devices, by their CDI names, and whether each is required.
    pub devices: Vec<(String, bool)>,
    /// Files for heredocs with a `#!` line: name and contents, at `/dev/pipes/<name>`.
    pub scripts: Vec<(String, Arc<str>)>,
    /// The prefix of cache mounts' names (`BUILDKIT_CACHE_MOUNT_NS`).
    pub cache_namespace: String,
    /// The host name inside.
    pub hostname: String,
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum NetworkChoice {
    /// Reaches the outside, not the host's own services, where that is possible.
    #[default]
    Default,
    /// None but the loopback device.
    None,
    /// The host's.
    Host,
}

impl NetworkChoice {
    /// The word that stands for it in flags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// Files to copy.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Where paths are taken from.
    pub from: Source,
    /// Paths and patterns, in order, and what else is copied.
    pub sources: Vec<CopySource>,
    /// Which bytes of the Dockerfile each of `sources` is, but for heredocs, which come last; empty for a trigger.
    pub source_places: Vec<Range<usize>>,
    /// The destination as written, expanded.
    pub destination: String,
    /// The absolute working directory.
    pub working_dir: String,
    /// The owner, as `--chown` has it.
    pub chown: Option<String>,
    /// The mode.
    pub chmod: Option<ChmodSpec>,
    /// `--chmod` as written, for keys.
    pub chmod_text: Option<String>,
    /// Whether the layer must not depend on what is below.
    pub link: bool,
    /// Whether paths keep their parents.
    pub parents: bool,
    /// Patterns of what is left out.
    pub excludes: Vec<String>,
    /// What ADD does beyond COPY; `None` for COPY.
    pub add: Option<Add>,
}

impl Run {
    /// Which bytes of the Dockerfile a mount is.
    pub(crate) fn place_of(&self, mount: &Mount) -> Option<Range<usize>> {
        let mut mounts = self.mounts.iter().zip(&self.mount_places);
        mounts.find(|((known, _), _)| known == mount).map(|(_, place)| place.clone())
    }
}

impl Copy {
    /// Which bytes of the Dockerfile a path or address is.
    pub(crate) fn place_of(&self, path: &str) -> Option<Range<usize>> {
        let is_it = |source: &CopySource| match source {
            CopySource::Path(known) | CopySource::Remote(known) => known == path,
            CopySource::Heredoc { .. } => false,
        };
        let mut sources = self.sources.iter().zip(&self.source_places);
        sources.find(|(source, _)| is_it(source)).map(|(_, place)| place.clone())
    }
}

/// One source of a COPY or ADD.
#[derive(Debug, Clone)]
pub enum CopySource {
    /// A path or pattern in the source tree.
    Path(String),
    /// A file made from a heredoc.
    Heredoc {
        /// The file's name.
        name: String,
        /// Its contents.
        body: Arc<str>,
    },
    /// A web address or git repository (ADD only).
    Remote(String),
}

/// What ADD does beyond COPY.
#[derive(Debug, Clone, Default)]
pub struct Add {
    /// Whether archives are unpacked; by default local ones are, and downloaded ones are not.
    pub unpack: Option<bool>,
    /// The digest or commit that a remote source must have.
    pub checksum: Option<String>,
    /// Whether a git source keeps its `.git` folder.
    pub keep_git_dir: Option<bool>,
}

/// A stage, decided.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Which stage of the Dockerfile it is.
    pub index: StageIndex,
    /// Its name; its number where it has none.
    pub name: String,
    /// What it starts from.
    pub base: Source,
    /// The platform that it is built for.
    pub platform: Platform,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
    /// The configuration of the result; its layers, history and times are filled in when it is built.
    pub config: ImageConfig,
    /// The entries that the stage adds to the history.
    pub history: Vec<History>,
    /// Build arguments that it declared.
    pub declared_args: BTreeMap<String, Option<String>>,
}

impl StagePlan {
    /// Plans a stage by hand. With the configuration left as it is, the result keeps that of its base.
    #[must_use]
    pub fn new(index: StageIndex, base: Source, platform: Platform) -> Self {
        Self {
            index,
            name: index.0.to_string(),
            base,
            platform,
            steps: Vec::new(),
            config: ImageConfig::default(),
            history: Vec::new(),
            declared_args: BTreeMap::new(),
        }
    }

    /// Adds a command, with an environment of nothing but `PATH`.
    #[must_use]
    pub fn run(self, argv: &[&str]) -> Self {
        let run = Run {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())],
            args: BTreeSet::new(),
            proxy_env: Vec::new(),
            working_dir: "/".to_owned(),
            user: String::new(),
            mounts: Vec::new(),
            network: NetworkChoice::Default,
            insecure: false,
            devices: Vec::new(),
            scripts: Vec::new(),
            mount_places: Vec::new(),
            cache_namespace: String::new(),
            hostname: HOSTNAME.to_owned(),
        };
        self.step(format!("RUN {}", argv.join(" ")), Action::Run(Box::new(run)))
    }

    /// Adds files of a tree; a destination that ends in a slash is a directory.
    #[must_use]
    pub fn copy(self, from: Source, paths: &[&str], destination: &str) -> Self {
        let copy = Copy {
            from,
            sources: paths.iter().map(|&path| CopySource::Path(path.to_owned())).collect(),
            source_places: Vec::new(),
            destination: destination.to_owned(),
            working_dir: "/".to_owned(),
            chown: None,
            chmod: None,
            chmod_text: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            add: None,
        };
        self.step(format!("COPY {} {destination}", paths.join(" ")), Action::Copy(Box::new(copy)))
    }

    /// Adds a step, and its entry in the history.
    #[must_use]
    pub fn step(mut self, name: String, action: Action) -> Self {
        self.history.push(History { created_by: name.clone(), ..History::default() });
        let history = self.history.len() - 1;
        self.steps.push(Step { name, span: None, action, history, origin: Origin::default() });
        self
    }

    /// The trees that the stage needs besides its base.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.steps.iter().flat_map(Step::sources)
    }
}

impl Step {
    /// The trees that the step needs besides the one it is done to.
    #[must_use]
    pub fn sources(&self) -> Vec<&Source> {
        match &self.action {
            Action::Run(run) => run.mounts.iter().filter_map(|(_, from)| from.as_ref()).collect(),
            Action::Copy(copy) => vec![&copy.from],
            Action::MakeDirectory { .. } => Vec::new(),
        }
    }
}
