//! Files and repositories by address, kept from one build to the next.
//!
//! ```text
//! notes/fetched/<address>     the blob that its bytes are, its name, its time, and the server's marks of that version
//! notes/git/<what of which commit>    the layer that holds the files
//! notes/git-name/<repository, name>   the commit that a branch or tag stood for when it was last asked
//! notes/git-time/<commit>     when it was made
//! ```
//!
//! What a checksum or a full commit names is never asked for again while the store has it. Other files are asked for
//! with the marks of the kept version, and taken from the store when the server says that it still has that one. Other
//! names of repositories are looked up, and fetched when they stand for a commit that is not kept.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::build::Fetcher;
use super::layers::{Layers, Stops};
use super::materialize::{part_of, single};
use crate::context::{ContextDir, MemoryTree, StatCache};
use crate::error::{BuildError, Cause};
use crate::oci::{Descriptor, DiffId, Digest};
use crate::plan::Add;
use crate::registry::transport::Url;
use crate::remote::{self, GitSource};
use crate::store::Store;
use crate::tree::{
    Content, ContentDigest, Entry, Metadata, Node, OpenContent, SourceFile, Timestamp, TreePath, TreeView,
};

/// The media type under which a file's bytes are a blob of the store.
const MEDIA_TYPE: &str = "application/octet-stream";

/// A file from elsewhere, in the store.
pub(crate) struct RemoteFile {
    /// Its name, by its address.
    pub(crate) name: String,
    kept: Kept,
    store: Store,
}

impl RemoteFile {
    /// Opens it, once its bytes were found to be right.
    pub(crate) fn open(&self) -> io::Result<File> {
        self.store.verify_blob(&self.kept.blob).map_err(io::Error::other)?;
        File::open(self.store.blob_path(&self.kept.blob.digest))
    }

    /// When it changed by what its server said: seconds since 1970.
    pub(crate) fn modified(&self) -> Option<i64> {
        self.kept.modified
    }

    /// A tree of it alone, with mode 0600 and the time that its server gave, or another one. What it holds is known, so
    /// it is read only when it is copied.
    pub(crate) fn into_tree(self, without_time: Timestamp) -> MemoryTree {
        let entry = Entry {
            path: TreePath::clean(self.name.as_bytes()),
            node: Node::File { size: self.kept.blob.size },
            metadata: Metadata {
                mode: 0o600,
                modified: self.kept.modified.map_or(without_time, Timestamp::from_seconds),
                ..Metadata::default()
            },
        };
        let mut tree = MemoryTree::new();
        let digest = ContentDigest::from_hex(self.kept.content.as_bytes());
        let path = entry.path.clone();
        let content = Content::Source(SourceFile { opener: Arc::new(self), path, stamp: 0, mark: None });
        match digest {
            Ok(digest) => tree.add_hashed(entry, content, digest),
            Err(_) => tree.add(entry, content, None),
        }
        tree
    }
}

impl OpenContent for RemoteFile {
    fn open(&self, _: &TreePath, _: u64) -> io::Result<File> {
        Self::open(self)
    }
}

/// What is known of a file that was fetched.
#[derive(Serialize, Deserialize)]
struct Kept {
    blob: Descriptor,
    /// The digest by which trees know contents.
    content: String,
    modified: Option<i64>,
    etag: Option<String>,
}

impl Fetcher<'_> {
    /// Fetches a file, or takes it from the store. The bytes have the digest `checksum` where one is given.
    pub(crate) fn file(&self, url: &Url, folder: &Path, checksum: Option<Digest>) -> Result<RemoteFile, Cause> {
        let pinned = || self.kept(url).filter(|kept| checksum == Some(kept.blob.digest));
        if let Some(kept) = pinned() {
            return Ok(self.of_store(url, kept));
        }
        if self.options.offline {
            let kept = self.kept(url).filter(|_| checksum.is_none());
            return kept.map(|kept| self.of_store(url, kept)).ok_or_else(|| Cause::from(NotKept));
        }
        let name = url.to_string();
        let stopped = || self.options.registry.transport.cancelled.is_cancelled();
        let action = || format!("wait for another build that fetches `{name}`");
        let _lock = super::load::wait_for_lock(|| self.store.try_lock_note("fetched", &name), stopped, action)?;
        // Another build may have fetched it while this one waited.
        if let Some(kept) = pinned() {
            return Ok(self.of_store(url, kept));
        }
        let known = self.kept(url).filter(|_| checksum.is_none());
        let marks = known.as_ref().map(|kept| remote::Marks { etag: kept.etag.clone(), last_modified: kept.modified });
        match self.download(url, folder, checksum, marks.as_ref())? {
            Some(downloaded) => Ok(self.of_store(url, self.keep(url, &downloaded)?)),
            None => {
                let kept = known.expect("a server is asked for changes only where a version is known");
                Ok(self.of_store(url, kept))
            }
        }
    }

    /// What the store has of an address.
    fn kept(&self, url: &Url) -> Option<Kept> {
        let bytes = self.store.read_note("fetched", &url.to_string()).ok()??;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        self.store.has_blob(&kept.blob.digest, kept.blob.size).then_some(kept)
    }

    fn keep(&self, url: &Url, downloaded: &remote::Downloaded) -> Result<Kept, Cause> {
        let mut writer = self.store.hashed_blob_writer()?;
        io::copy(&mut downloaded.file.reopen()?, &mut writer)?;
        let blob = writer.finish_with(MEDIA_TYPE, downloaded.digest, downloaded.size)?;
        // Looking at it keeps it from being pruned while the build may read it.
        self.store.verify_blob(&blob)?;
        let content = blake3::Hasher::new().update_reader(downloaded.file.reopen()?)?.finalize().to_hex().to_string();
        let kept = Kept { blob, content, modified: downloaded.last_modified, etag: downloaded.etag.clone() };
        let bytes = serde_json::to_vec(&kept).expect("a descriptor has string keys only");
        self.store.write_note("fetched", &url.to_string(), &bytes)?;
        Ok(kept)
    }

    fn of_store(&self, url: &Url, kept: Kept) -> RemoteFile {
        RemoteFile { name: remote::file_name(url), kept, store: self.store.clone() }
    }

    /// The files of a repository, fetched into `folder` on the way unless they are kept.
    pub(crate) fn repository(&self, source: &GitSource, folder: &Path) -> Result<Arc<dyn TreeView>, Cause> {
        self.commit(source, folder).map(|(_, view)| view)
    }

    /// When the commit was made that a source names, fetched into `folder` on the way unless it is kept: seconds since
    /// 1970.
    pub(crate) fn commit_time(&self, source: &GitSource, folder: &Path) -> Result<i64, Cause> {
        let (sha, _) = self.commit(source, folder)?;
        let kept = self.store.read_note("git-time", &sha)?;
        if let Some(time) = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(time);
        }
        if self.options.offline {
            return Err(NotKept.into());
        }
        let commit = remote::checkout(source, &folder.join("again"), &self.git_options())?;
        self.keep_time(&commit)?;
        Ok(commit.time)
    }

    fn keep_time(&self, commit: &remote::Commit) -> Result<(), Cause> {
        let bytes = serde_json::to_vec(&commit.time).expect("a number");
        Ok(self.store.write_note("git-time", &commit.sha, &bytes)?)
    }

    /// The commit that a source names, and its files.
    fn commit(&self, source: &GitSource, folder: &Path) -> Result<(String, Arc<dyn TreeView>), Cause> {
        let options = self.git_options();
        let name = reference_note(source);
        let commit = match source.pinned_commit() {
            Some(commit) => Some(commit.to_owned()),
            None if self.options.offline => {
                let bytes = self.store.read_note("git-name", &name)?.ok_or(NotKept)?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            // One that names nothing yet is looked up and fetched at once.
            None if self.store.read_note("git-name", &name)?.is_none() => None,
            None => Some(remote::resolve(source, folder, &options)?),
        };
        let layers = Arc::new(Layers::new(self.store.clone(), Stops::default(), None));
        let view = |diff_id| -> Result<Arc<dyn TreeView>, Cause> { Ok(Arc::new(layers.view(&single(diff_id))?)) };
        let known = |commit: &String| self.kept_checkout(source, commit, &options);
        if let Some((sha, diff_id)) = commit.and_then(|sha| known(&sha).map(|diff_id| (sha, diff_id))) {
            return Ok((sha, view(diff_id)?));
        }
        if self.options.offline {
            return Err(NotKept.into());
        }
        let target = folder.join("checkout");
        let commit = remote::checkout(source, &target, &options)?;
        let files = ContextDir::open(&target, None, StatCache::none())?;
        let part = part_of(&files, &TreePath::root())?.expect("a root always exists");
        let diff_id = layers.materialize(&part.digest, || Ok(part.changes))?;
        let bytes = serde_json::to_vec(&diff_id).expect("a digest is a string");
        self.store.write_note("git", &checkout_note(source, &commit.sha, &options), &bytes)?;
        self.store.write_note("git-name", &name, commit.sha.as_bytes())?;
        self.keep_time(&commit)?;
        Ok((commit.sha, view(diff_id)?))
    }

    fn kept_checkout(&self, source: &GitSource, commit: &str, options: &remote::GitOptions) -> Option<DiffId> {
        let bytes = self.store.read_note("git", &checkout_note(source, commit, options)).ok()??;
        let diff_id: DiffId = serde_json::from_slice(&bytes).ok()?;
        let layer = self.store.layer(diff_id)?;
        (layer.unpacked().is_some() && matches!(layer.tree(), Ok(Some(_)))).then_some(diff_id)
    }
}

/// Names what a branch or tag stands for.
fn reference_note(source: &GitSource) -> String {
    format!("{}\0{}", source.remote, source.reference.as_deref().unwrap_or_default())
}

/// Names the files that a checkout of a commit gives.
fn checkout_note(source: &GitSource, commit: &str, options: &remote::GitOptions) -> String {
    let keep = source.keep_git_dir.unwrap_or(options.keep_git_dir);
    // The folder of git says by which name it was fetched.
    let reference = source.reference.as_deref().filter(|_| keep).unwrap_or_default();
    let submodules = source.submodules.unwrap_or(options.submodules);
    format!("{}\0{commit}\0{}\0{keep}\0{reference}\0{submodules}\0{:?}", source.remote, source.subdir, source.mtime)
}

/// Something is wanted that only a network has.
#[derive(Debug, thiserror::Error)]
#[error("the store has not kept it, and --offline allows no request; build once without it")]
pub(crate) struct NotKept;

/// Adds what ADD's flags say to a git source.
pub(super) fn with_add_options(mut source: GitSource, add: &Add) -> Result<GitSource, BuildError> {
    if let Some(keep) = add.keep_git_dir {
        if source.keep_git_dir.is_some_and(|own| own != keep) {
            return Err(BuildError::usage(
                "the source says itself whether `.git` is kept, and --keep-git-dir says otherwise",
                "remove one of them",
            ));
        }
        source.keep_git_dir = Some(keep);
    }
    if let Some(checksum) = &add.checksum {
        if source.checksum.as_ref().is_some_and(|own| own != checksum) {
            return Err(BuildError::usage(
                format!("checksum mismatch: --checksum={checksum} is not the source's own checksum"),
                "remove one of them",
            ));
        }
        source.checksum = Some(checksum.clone());
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::GitOptions;

    #[test]
    fn what_a_checkout_depends_on_is_in_its_name() {
        let options = GitOptions::default();
        let note = |text: &str| {
            let source = GitSource::parse(text, remote::Place::Context).unwrap().unwrap();
            checkout_note(&source, "c0ffee", &options)
        };
        assert_eq!(note("https://e.com/a.git#main"), note("https://e.com/a.git#v1"), "the commit says it all");
        for other in ["#main:sub", "?submodules=0", "?mtime=checkout", "?keep-git-dir=1", "?keep-git-dir=1&ref=v1"] {
            assert_ne!(note("https://e.com/a.git"), note(&format!("https://e.com/a.git{other}")), "{other}");
        }
        assert_ne!(note("https://e.com/a.git?keep-git-dir=1#v1"), note("https://e.com/a.git?keep-git-dir=1#v2"));
    }
}
