//! What a caller asks of a build. Everything that comes from a user's surroundings is handed in here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::carry::{CacheSource, CacheTarget};
use crate::image::Annotation;
use crate::layer::Compression;
use crate::oci::Platform;
use crate::plan::NetworkChoice;
use crate::reference::Reference;
use crate::registry::Options as ClientOptions;

/// Where programs of this machine are looked for unless the caller says otherwise.
pub(super) const DEFAULT_PROGRAM_PATH: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where CDI files are looked for unless the caller says otherwise: the folders that BuildKit has.
const CDI_SPEC_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// Where the build context comes from.
#[derive(Debug, Clone)]
pub enum ContextInput {
    /// A folder of this machine, read in place.
    Directory(PathBuf),
    /// A tar archive, plain or compressed (gzip, bzip2, xz, zstd), in a file.
    Archive(PathBuf),
    /// A git repository or a web address, as written.
    Remote(String),
    /// No files at all.
    Empty,
}

/// Where the Dockerfile comes from.
#[derive(Debug, Clone)]
pub enum DockerfileInput {
    /// A text that the caller has read.
    Text {
        /// Its path, as messages show it.
        name: String,
        /// Its text.
        text: String,
        /// The patterns of `NAME.dockerignore` beside it, where there is such a file: its path and its bytes.
        ignore: Option<(String, Vec<u8>)>,
    },
    /// A path inside the context; by default `Dockerfile`, else `dockerfile`.
    InContext(Option<String>),
}

/// What a named context is (`--build-context NAME=…`).
#[derive(Debug, Clone)]
pub enum NamedContext {
    /// A folder of this machine.
    Directory(PathBuf),
    /// An image in an OCI layout, folder or tar, by tag or digest.
    Layout {
        /// The layout.
        path: PathBuf,
        /// The tag, by default `latest`.
        tag: Option<String>,
        /// The digest of a manifest or index.
        digest: Option<String>,
    },
    /// An image of a registry or the local store.
    Image(String),
    /// A git repository or web address.
    Remote(String),
}

/// Where a secret's bytes come from.
#[derive(Clone)]
pub enum Secret {
    /// A file, read when a step needs it.
    File(PathBuf),
    /// Bytes that the caller has.
    Bytes(Arc<[u8]>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(_) => f.write_str("Bytes(redacted)"),
        }
    }
}

/// An agent that `RUN --mount=type=ssh` may use.
#[derive(Debug, Clone)]
pub enum SshSource {
    /// The socket of a running agent.
    Agent(PathBuf),
    /// Private key files.
    Keys(Vec<PathBuf>),
}

/// Which steps must run although an earlier result exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    /// None.
    #[default]
    Never,
    /// All.
    All,
    /// Those of some stages, by name.
    Stages(BTreeSet<String>),
}

/// Which steps must have an earlier result: the build fails before it does one that has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExpectCached {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those of some stages, by name.
    Stages(BTreeSet<String>),
}

/// How RUN steps are kept apart from the host (DESIGN: the isolation ladder).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Namespaces, overlay file systems and `pivot_root`.
    #[default]
    Namespaces,
    /// A private copy of the tree and `chroot`: no security boundary.
    Chroot,
}

/// Where a finished image goes besides the store.
#[derive(Debug, Clone)]
pub struct Output {
    /// Which form.
    pub kind: OutputKind,
    /// Where to.
    pub destination: Destination,
}

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// An OCI layout as a tar archive.
    OciArchive,
    /// An OCI layout as a folder.
    OciLayout,
    /// An archive for `docker load`.
    DockerArchive,
    /// The image's files in a folder.
    Local,
    /// The image's files as a tar archive.
    Tar,
}

/// Where an output is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file or folder.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// What a build is told.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// The build context.
    pub context: ContextInput,
    /// The Dockerfile.
    pub dockerfile: DockerfileInput,
    /// The stage to build, by name; the last one where absent.
    pub target: Option<String>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// Labels, which win over the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// Annotations of manifests and indexes.
    pub annotations: Vec<Annotation>,
    /// Named contexts, by name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Secrets, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Ssh agents, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// The platforms to build for; this machine's where empty.
    pub platforms: Vec<Platform>,
    /// The network of RUN steps that don't choose one.
    pub network: NetworkChoice,
    /// Further lines of `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Which steps run although an earlier result exists.
    pub no_cache: NoCache,
    /// Which steps must have an earlier result.
    pub expect_cached: ExpectCached,
    /// Caches of other machines that steps are looked up in, in this order.
    pub cache_from: Vec<CacheSource>,
    /// Caches that are written for other machines.
    pub cache_to: Vec<CacheTarget>,
    /// Whether tags of base images are looked up again.
    pub pull: bool,
    /// Whether no request is made: what the store has not kept is an error. The network of RUN steps is another matter
    /// ([`Self::network`]).
    pub offline: bool,
    /// How many steps run at the same time; 0 for one per core.
    pub jobs: usize,
    /// The folder of the tokens that builds of this user share, so that together they run about as many steps as one
    /// may; the store's own where absent.
    pub job_tokens: Option<PathBuf>,
    /// Names for the finished image.
    pub tags: Vec<Reference>,
    /// Where the finished image goes.
    pub outputs: Vec<Output>,
    /// Whether it is pushed under its tags.
    pub push: bool,
    /// How layers are compressed.
    pub compression: Compression,
    /// `SOURCE_DATE_EPOCH`, seconds: the creation time, and the latest time of any file.
    pub epoch: Option<i64>,
    /// Whether [`Self::epoch`] bounds the files' times too.
    pub rewrite_timestamps: bool,
    /// The time now, seconds since 1970, where [`Self::epoch`] is absent.
    pub now: i64,
    /// Certificate authorities that RUN steps trust besides their own, PEM.
    pub certificate_authorities: Option<Arc<[u8]>>,
    /// Entitlements: `network.host`, `security.insecure`, `device`, `device=NAME[,alias=NAME]`.
    pub allow: BTreeSet<String>,
    /// Folders with files that describe devices (Container Device Interface); a later one counts more.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// How registries are reached.
    pub registry: ClientOptions,
    /// How RUN steps are kept apart.
    pub isolation: Isolation,
    /// The size of `/dev/shm`, bytes; 64 MiB where absent.
    pub shm_size: Option<u64>,
    /// Resource limits of RUN steps: name, soft and hard value.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Folders to find programs of this machine in (git, pasta, ssh-agent).
    pub program_path: Vec<PathBuf>,
    /// Whether warnings about silent surprises are errors.
    pub strict: bool,
    /// The most bytes that the store may hold after this build; what the store's own limit says where absent.
    pub cache_max: Option<u64>,
}

impl BuildOptions {
    /// Options for a context folder with a Dockerfile in it and nothing else special.
    #[must_use]
    pub fn new(store: impl Into<PathBuf>, context: impl Into<PathBuf>) -> Self {
        Self {
            store: store.into(),
            context: ContextInput::Directory(context.into()),
            dockerfile: DockerfileInput::InContext(None),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: Vec::new(),
            named_contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            platforms: Vec::new(),
            network: NetworkChoice::Default,
            extra_hosts: Vec::new(),
            no_cache: NoCache::Never,
            expect_cached: ExpectCached::Nothing,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            pull: false,
            offline: false,
            jobs: 0,
            job_tokens: None,
            tags: Vec::new(),
            outputs: Vec::new(),
            push: false,
            compression: Compression::default(),
            epoch: None,
            rewrite_timestamps: true,
            now: 0,
            certificate_authorities: None,
            allow: BTreeSet::new(),
            cdi_spec_dirs: CDI_SPEC_DIRS.map(PathBuf::from).to_vec(),
            registry: ClientOptions::default(),
            isolation: Isolation::default(),
            shm_size: None,
            ulimits: Vec::new(),
            program_path: DEFAULT_PROGRAM_PATH.map(PathBuf::from).to_vec(),
            strict: false,
            cache_max: None,
        }
    }
}

/// Stops a build: a shared flag that any thread, or a signal handler, can set.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Makes a flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses a flag that the caller has, for example one set by a signal handler.
    #[must_use]
    pub const fn from_flag(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Asks the build to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the build was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The flag itself.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
