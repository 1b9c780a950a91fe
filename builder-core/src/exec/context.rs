//! The build context, wherever it comes from, and the Dockerfile in it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::build::Build;
use super::build_arguments::{KEEP_GIT_DIR, truth};
use super::options::{BuildOptions, ContextInput, DockerfileInput, Secret, SshSource};
use crate::context::{
    Compression, ContextDir, CopyError, Fingerprint, IgnoreRules, MemoryTree, SelectOptions, StatCache, fingerprint,
    read_archive_tree,
};
use crate::error::{BuildError, Cause, During};
use crate::remote;
use crate::rootfs::{DirectoryTree, Root};
use crate::store::{Store, StoreError, TempDir};
use crate::tree::{Timestamp, TreeView, read_small};

/// The largest Dockerfile, and ignore file, that is read: bytes.
pub(super) const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// A build context that can be read.
#[derive(Clone)]
pub(crate) struct Context {
    /// What COPY, ADD and bind mounts see: ignored files are not there.
    pub(crate) view: Arc<dyn TreeView>,
    /// The folder, where it is one, and the name of its ignore file.
    pub(crate) folder: Option<(Arc<ContextDir>, String)>,
    /// Keeps what was downloaded or unpacked.
    _folder: Option<Arc<TempDir>>,
    /// What sources came to that steps asked for.
    looked: Arc<Mutex<Vec<Looked>>>,
}

/// A source that a step asked for; the first who asks walks the folder, others with the same wish wait for that.
struct Looked {
    options: SelectOptions,
    found: Arc<Mutex<Option<Fingerprint>>>,
}

impl Context {
    fn new(view: Arc<dyn TreeView>, folder: Option<TempDir>) -> Self {
        Self { view, folder: None, _folder: folder.map(Arc::new), looked: Arc::default() }
    }

    /// What files of the context come to. Several stages and platforms that copy the same walk it once.
    pub(crate) fn fingerprint(&self, options: &SelectOptions) -> Result<Fingerprint, CopyError> {
        let mut looked = lock(&self.looked);
        let known = looked.iter().find(|known| known.options == *options).map(|known| Arc::clone(&known.found));
        let slot = known.unwrap_or_else(|| {
            let found = Arc::default();
            looked.push(Looked { options: options.clone(), found: Arc::clone(&found) });
            found
        });
        drop(looked);
        let mut found = lock(&slot);
        match &*found {
            Some(found) => Ok(found.clone()),
            None => Ok(found.insert(fingerprint(&*self.view, options)?).clone()),
        }
    }

    /// Looks for all files anew when they are asked for again.
    pub(crate) fn forget(&self) {
        lock(&self.looked).clear();
    }
}

/// A Dockerfile that was read.
pub(crate) struct DockerfileText {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Files that were fetched from elsewhere.
pub(crate) struct Fetched {
    pub(crate) view: Arc<dyn TreeView>,
    folder: TempDir,
    /// A single text file where the address was one of a Dockerfile.
    dockerfile: Option<String>,
}

/// Opens the context and reads the Dockerfile.
pub(crate) fn open(
    options: &BuildOptions,
    store: &Store,
    fetcher: &super::build::Fetcher<'_>,
) -> Result<(Context, DockerfileText), BuildError> {
    match &options.context {
        ContextInput::Directory(path) => open_directory(options, store, path),
        ContextInput::Empty => {
            let view: Arc<dyn TreeView> = Arc::new(MemoryTree::new());
            let dockerfile = read_dockerfile(&options.dockerfile, &*view, "the empty build context")?;
            Ok((Context::new(view, None), dockerfile))
        }
        ContextInput::Archive(path) => {
            let folder = store.temp_dir("context").during(|| "make a temporary folder".to_owned())?;
            let action = || "read the build context's archive".to_owned();
            let file = File::open(path).during(action)?;
            let view: Arc<dyn TreeView> =
                Arc::new(read_archive_tree(Box::new(file), folder.path(), Timestamp::default()).during(action)?);
            let dockerfile = read_dockerfile(&options.dockerfile, &*view, "the build context's archive")?;
            Ok((Context::new(view, Some(folder)), dockerfile))
        }
        ContextInput::Remote(text) => {
            let mut source = fetcher.classify(text)?;
            if let remote::RemoteSource::Git(repository) = &mut source {
                repository.keep_git_dir = repository.keep_git_dir.or(truth(options, KEEP_GIT_DIR)?);
            }
            let fetched = fetcher.fetch(text, source)?;
            let dockerfile = match &fetched.dockerfile {
                Some(dockerfile) => DockerfileText { name: text.clone(), text: dockerfile.clone() },
                None => read_dockerfile(&options.dockerfile, &*fetched.view, text)?,
            };
            Ok((Context::new(fetched.view, Some(fetched.folder)), dockerfile))
        }
    }
}

/// Opens the context of a build that has no Dockerfile.
pub(crate) fn open_without_dockerfile(options: &BuildOptions, store: &Store) -> Result<Context, BuildError> {
    let text = DockerfileInput::Text { name: String::new(), text: String::new(), ignore: None };
    let options = BuildOptions { dockerfile: text, ..options.clone() };
    open(&options, store, &super::build::Fetcher { store, options: &options }).map(|(context, _)| context)
}

fn open_directory(options: &BuildOptions, store: &Store, path: &Path) -> Result<(Context, DockerfileText), BuildError> {
    let shown = path.display().to_string();
    let action = || format!("open the build context `{shown}`");
    let raw = Root::open(path).map(DirectoryTree::new).during(action)?;
    let dockerfile = read_dockerfile(&options.dockerfile, &raw, &format!("`{shown}`"))?;
    let beside = match &options.dockerfile {
        DockerfileInput::Text { ignore, .. } => ignore.clone(),
        DockerfileInput::InContext(_) => {
            let name = format!("{}.dockerignore", dockerfile.name);
            read_optional(&raw, &name)?.map(|bytes| (name, bytes))
        }
    };
    let found = match beside {
        Some(found) => Some(found),
        None => read_optional(&raw, ".dockerignore")?.map(|bytes| (".dockerignore".to_owned(), bytes)),
    };
    let rules = match &found {
        Some((name, bytes)) => Some(IgnoreRules::parse(bytes).during(|| format!("read `{name}`"))?),
        None => None,
    };
    let stat_cache = stat_cache(store, path).during(action)?;
    let view = Arc::new(ContextDir::open(path, rules, stat_cache).during(action)?.without(store.root()));
    let name = found.map_or_else(|| ".dockerignore".to_owned(), |(name, _)| name);
    let context = Context::new(Arc::clone(&view) as Arc<dyn TreeView>, None);
    Ok((Context { folder: Some((view, name)), ..context }, dockerfile))
}

/// What earlier builds learnt about the files of a folder.
fn stat_cache(store: &Store, path: &Path) -> Result<StatCache, StoreError> {
    let identity = blake3::hash(path.canonicalize().unwrap_or_else(|_| path.to_owned()).as_os_str().as_encoded_bytes());
    // The clock that files get their times from, whatever time the image is to have.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp { seconds: now.as_secs().cast_signed(), nanoseconds: now.subsec_nanos() };
    Ok(StatCache::load(&store.context_path(&identity.to_hex())?, now))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_optional(view: &dyn TreeView, name: &str) -> Result<Option<Vec<u8>>, BuildError> {
    read_small(view, name.as_bytes(), DOCKERFILE_LIMIT).during(|| format!("read `{name}`"))
}

fn read_dockerfile(input: &DockerfileInput, view: &dyn TreeView, place: &str) -> Result<DockerfileText, BuildError> {
    let names: Vec<&str> = match input {
        DockerfileInput::Text { name, text, .. } => {
            return Ok(DockerfileText { name: name.clone(), text: text.clone() });
        }
        DockerfileInput::InContext(Some(name)) => vec![name],
        DockerfileInput::InContext(None) => vec!["Dockerfile", "dockerfile"],
    };
    for name in &names {
        if let Some(bytes) = read_optional(view, name)? {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Ok(DockerfileText { name: (*name).to_owned(), text });
        }
    }
    Err(BuildError::usage(
        format!("there is no `{}` in {place}", names[0]),
        "name another file with -f, or another folder as the build context",
    ))
}

/// Opens a folder of this machine as a named context, with its own ignore file.
pub(crate) fn open_folder(build: &Build<'_>, path: &Path) -> Result<Arc<dyn TreeView>, BuildError> {
    let action = || format!("open the folder `{}`", path.display());
    let raw = Root::open(path).map(DirectoryTree::new).during(action)?;
    let rules = match read_optional(&raw, ".dockerignore")? {
        Some(bytes) => {
            Some(IgnoreRules::parse(&bytes).during(|| format!("read `{}`", path.join(".dockerignore").display()))?)
        }
        None => None,
    };
    let store = build.layers.store();
    let stat_cache = stat_cache(store, path).during(action)?;
    let folder = Arc::new(ContextDir::open(path, rules, stat_cache).during(action)?.without(store.root()));
    build.keep_folder(Arc::clone(&folder));
    Ok(folder)
}

/// Fetches a git repository or a web address.
pub(crate) fn fetch(build: &Build<'_>, text: &str) -> Result<Fetched, BuildError> {
    let fetcher = build.fetcher();
    fetcher.fetch(text, fetcher.classify(text)?)
}

impl super::build::Fetcher<'_> {
    /// How git is run: with the caller's authorities, proxies and secrets.
    pub(crate) fn git_options(&self) -> remote::GitOptions {
        let transport = &self.options.registry.transport;
        let agent = self.options.ssh.get("default").and_then(|source| match source {
            SshSource::Agent(path) => Some(path.clone()),
            SshSource::Keys(_) => None,
        });
        remote::GitOptions {
            search_path: std::env::join_paths(&self.options.program_path).unwrap_or_default(),
            ssh_auth_socket: agent,
            certificate_authorities: transport.certificate_authorities.clone(),
            proxies: transport.proxies.clone(),
            cancelled: transport.cancelled.clone(),
            ..remote::GitOptions::default()
        }
    }

    /// Fetches one file, unless it is the version that is known; secrets `HTTP_AUTH_TOKEN_<host>` and
    /// `HTTP_AUTH_HEADER_<host>` say who asks.
    pub(crate) fn download(
        &self,
        url: &crate::registry::transport::Url,
        folder: &Path,
        checksum: Option<crate::oci::Digest>,
        known: Option<&remote::Marks>,
    ) -> Result<Option<remote::Downloaded>, Cause> {
        let mut options = remote::DownloadOptions {
            transport: self.options.registry.transport.clone(),
            ..remote::DownloadOptions::default()
        };
        options.transport.offline |= self.options.offline;
        let downloader = remote::Downloader::new(options)?;
        let authorization = self.http_authorization(&url.origin().host);
        let request =
            remote::DownloadRequest { url, authorization: authorization.as_ref(), checksum, folder, events: None };
        Ok(match known {
            Some(known) => downloader.download_if_changed(&request, known)?,
            None => Some(downloader.download(&request)?),
        })
    }

    fn http_authorization(&self, host: &str) -> Option<crate::registry::Secret> {
        let read = |name: &str| match self.options.secrets.get(name)? {
            Secret::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            Secret::File(path) => std::fs::read_to_string(path).ok(),
        };
        let header = read(&format!("HTTP_AUTH_HEADER_{host}")).map(|text| text.trim().to_owned());
        let header =
            header.or_else(|| read(&format!("HTTP_AUTH_TOKEN_{host}")).map(|text| format!("Bearer {}", text.trim())));
        header.map(crate::registry::Secret::new)
    }

    fn classify(&self, text: &str) -> Result<remote::RemoteSource, BuildError> {
        remote::classify(text, remote::Place::Context).during(|| format!("fetch the build context `{}`", shown(text)))
    }

    /// Fetches a git repository, an archive or a Dockerfile, which was written so, into the store's temporary folder.
    fn fetch(&self, text: &str, source: remote::RemoteSource) -> Result<Fetched, BuildError> {
        let action = || format!("fetch the build context `{}`", shown(text));
        let folder = self.store.temp_dir("remote").during(action)?;
        match source {
            remote::RemoteSource::Git(source) => {
                let view = self.repository(&source, folder.path()).during(action)?;
                Ok(Fetched { view, folder, dockerfile: None })
            }
            remote::RemoteSource::Http(url) => {
                let mut fetched = self.file(&url, folder.path(), None).during(action)?;
                if fetched.open().is_err() {
                    // Damaged bytes are gone from the store once they were found out.
                    fetched = self.file(&url, folder.path(), None).during(action)?;
                }
                let mut start = Vec::new();
                fetched.open().and_then(|f| f.take(1024).read_to_end(&mut start)).during(action)?;
                if is_archive(&start) {
                    let file = fetched.open().during(action)?;
                    let tree = read_archive_tree(Box::new(file), folder.path(), Timestamp::default()).during(action)?;
                    return Ok(Fetched { view: Arc::new(tree), folder, dockerfile: None });
                }
                let text = fetched.open().and_then(std::io::read_to_string).during(action)?;
                Ok(Fetched { view: Arc::new(MemoryTree::new()), folder, dockerfile: Some(text) })
            }
            remote::RemoteSource::Local => {
                Err(BuildError::usage(format!("`{text}` is no git repository and no web address"), ""))
            }
        }
    }
}

/// Whether bytes are the start of an archive, plain or compressed, and not of a Dockerfile.
pub(crate) fn is_archive(start: &[u8]) -> bool {
    let plain_tar = start.get(257..262) == Some(b"ustar");
    plain_tar || !matches!(Compression::detect(start), Compression::None)
}

/// An address without what only its owner should see.
pub(crate) fn shown(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}/{path}"),
        None => address.to_owned(),
    }
}
