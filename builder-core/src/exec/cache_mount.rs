//! Cache mounts as archives: `rbuild cache mount export` and `import`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::{BuildError, During};
use crate::layer::{self, Compression, LayerError, Limits};
use crate::oci::media_type;
use crate::rootfs::Root;
use crate::store::{CacheMount, MountAbout, Store};
use crate::tree::{Change, Content, Entry, Node, OpenContent, SourceFile, TreeError, TreePath, sort_changes};

/// Begins the hash that names a cache: by namespace, id, and owner, group and mode as they were asked for.
pub(crate) fn identity(namespace: &str, id: &str, owner: (Option<u32>, Option<u32>, Option<u32>)) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{namespace}\0{id}").as_bytes());
    hasher.update(format!("\0{:?}\0{:?}\0{:?}", owner.0, owner.1, owner.2).as_bytes());
    hasher
}

/// The name in the store of the cache that `RUN --mount=type=cache,id=ID` uses, without further options.
#[must_use]
pub fn cache_mount_hash(id: &str) -> String {
    identity("", id, (None, None, None)).finalize().to_hex().to_string()
}

/// Writes a cache mount's files as a tar archive.
///
/// # Errors
/// When a running step uses the cache, it can't be read, or the archive not be written.
pub fn export_cache_mount(store: &Store, hash: &str, out: &mut dyn Write) -> Result<(), BuildError> {
    let action = || "write the archive of the cache".to_owned();
    let held = hold(store, hash)?;
    let changes = contents(held.path()).during(action)?;
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    layer::encode(&changes.into(), Compression::Uncompressed, &mut out).during(action)?;
    out.flush().during(action)
}

/// Makes the files of a tar archive, plain or compressed with gzip or zstd, the content of a cache mount. What the cache
/// held before is gone then; it stays as it was after an error.
///
/// # Errors
/// When a running step uses the cache, or the archive can't be read or tries to reach outside.
pub fn import_cache_mount(
    store: &Store,
    hash: &str,
    about: &MountAbout,
    archive: impl Read + Send,
) -> Result<(), BuildError> {
    let action = || "unpack the archive into the cache".to_owned();
    let held = hold(store, hash)?;
    store.describe_cache_mount(hash, about).during(action)?;
    let folder = store.unpack_dir().during(action)?;
    let new = folder.path().join("new");
    std::fs::create_dir(&new).during(action)?;
    copy_owner(held.path(), &new).during(action)?;
    let mut archive = io::BufReader::new(archive);
    let kind = media_type_of(io::BufRead::fill_buf(&mut archive).during(action)?);
    layer::read_layer(archive, kind, None, Some(&new), &Limits::default()).map_err(|error| match error {
        LayerError::MediaType { .. } => {
            BuildError::failed(action(), "it is no tar archive, plain or with gzip or zstd")
        }
        other => BuildError::failed(action(), other),
    })?;
    store.replace_cache_mount(&held, &new).during(action)
}

fn hold(store: &Store, hash: &str) -> Result<CacheMount, BuildError> {
    let held = store.hold_cache_mount(hash).during(|| "open the cache".to_owned())?;
    held.ok_or_else(|| {
        BuildError::failed("open the cache", "a running build uses it").with_help("try again when that build is done")
    })
}

/// Which kind of archive begins with these bytes.
fn media_type_of(start: &[u8]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => media_type::LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => media_type::LAYER_ZSTD,
        _ => media_type::LAYER,
    }
}

/// Gives a new folder the owner and mode that the cache has.
fn copy_owner(from: &Path, to: &Path) -> io::Result<()> {
    let Some(entry) = Root::open(from).and_then(|root| root.metadata(&TreePath::root())).map_err(io::Error::other)?
    else {
        return Ok(());
    };
    super::materialize::set_metadata(to, &entry.metadata)
}

/// Everything in a cache's folder, sorted; further names of a file are links to its first.
///
/// # Errors
/// When something can't be read.
pub(crate) fn contents(folder: &Path) -> Result<Vec<Change>, TreeError> {
    let root = Root::open(folder)?;
    let mut changes = Vec::new();
    let mut folders = vec![TreePath::root()];
    while let Some(folder) = folders.pop() {
        for status in root.list(&folder)? {
            if status.entry.node.is_directory() {
                folders.push(status.entry.path.clone());
            }
            changes.push((status.is_linked().then_some(status.inode.link_id()), status.entry));
        }
    }
    changes.sort_by(|a, b| a.1.path.cmp(&b.1.path));
    let mut firsts = BTreeMap::new();
    let opener: Arc<dyn OpenContent> = Arc::new(root);
    let mut all: Vec<Change> =
        changes.into_iter().map(|(link, entry)| change(&opener, link, entry, &mut firsts)).collect();
    sort_changes(&mut all);
    Ok(all)
}

fn change(
    opener: &Arc<dyn OpenContent>,
    link: Option<u64>,
    mut entry: Entry,
    firsts: &mut BTreeMap<u64, TreePath>,
) -> Change {
    let Node::File { size } = entry.node else { return Change::new(entry) };
    if let Some(link) = link {
        if let Some(target) = firsts.get(&link) {
            entry.node = Node::HardLink { target: target.clone() };
            return Change::new(entry);
        }
        firsts.insert(link, entry.path.clone());
    }
    let source = SourceFile { opener: Arc::clone(opener), path: entry.path.clone(), stamp: 0, mark: None };
    let content = if size == 0 { Content::None } else { Content::Source(source) };
    Change { entry, content }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::store::CacheSharing;

    #[test]
    fn a_cache_goes_out_and_in_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let hash = cache_mount_hash("npm");
        let about = MountAbout { id: "npm".to_owned(), namespace: String::new() };
        let fill = |at: &Path| {
            fs::create_dir(at.join("d"))?;
            fs::write(at.join("d/file"), "text")?;
            fs::hard_link(at.join("d/file"), at.join("d/other"))?;
            fs::set_permissions(at.join("d/file"), fs::Permissions::from_mode(0o640))?;
            symlink("file", at.join("d/link"))?;
            fs::write(at.join("empty"), "")
        };
        let mount = store.cache_mount(&hash, CacheSharing::Shared, fill).unwrap();
        let error = export_cache_mount(&store, &hash, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("open the cache"), "{error}");
        drop(mount);
        let mut archive = Vec::new();
        export_cache_mount(&store, &hash, &mut archive).unwrap();
        let other = Store::open(&dir.path().join("other")).unwrap();
        let old = other.cache_mount(&hash, CacheSharing::Shared, |at| fs::write(at.join("old"), "x")).unwrap();
        let path = old.path().to_owned();
        drop(old);
        import_cache_mount(&other, &hash, &about, &archive[..]).unwrap();
        assert!(!path.join("old").exists());
        assert_eq!(fs::read_to_string(path.join("d/link")).unwrap(), "text");
        let status = fs::metadata(path.join("d/file")).unwrap();
        assert_eq!((status.nlink(), status.mode() & 0o777), (2, 0o640));
        assert_eq!(other.cache_mounts().unwrap()[0].about, Some(about.clone()));
        let mut again = Vec::new();
        export_cache_mount(&other, &hash, &mut again).unwrap();
        assert!(again == archive, "the archives differ");
        // What can't be read leaves the cache as it was.
        assert!(import_cache_mount(&other, &hash, &about, &archive[..archive.len() / 3]).is_err());
        assert_eq!(fs::read_to_string(path.join("d/link")).unwrap(), "text");
    }
}
