//! Mounts of files: binds, which show a tree, and caches, which outlive the build.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rbuild_dockerfile::mount::{Mount as PlannedMount, MountType, Sharing};

use super::{MountedSource, Wanted, absolute};
use crate::cache::{Files, FilesBuilder, PreImage, input};
use crate::context::{SelectOptions, describe, fingerprint, select};
use crate::error::{BuildError, During};
use crate::exec::cache_mount::identity;
use crate::exec::changing::ChangedFiles;
use crate::exec::materialize::{part_of, rebase, single};
use crate::exec::options::{Isolation, NoCache};
use crate::exec::run::{Keep, PreparedRun};
use crate::exec::stage::StageRun;
use crate::plan::{Run, Source};
use crate::snapshot::MountKind;
use crate::store::{CacheSharing, MountAbout};
use crate::sys::mount::{Overlay, WritableLayer};
use crate::sys::sandbox::MountSource;
use crate::tree::{ContentMark, FollowLast, TreePath, TreeView, resolve};

/// What a mount shows, and how that is told from something else.
struct Shown {
    source: MountedSource,
    digest: String,
    /// Where its files can be looked at one by one, unless its layers say what it is.
    tree: Option<MountedTree>,
}

/// The part of a tree that a mount shows.
pub(crate) struct MountedTree {
    view: Arc<dyn TreeView>,
    path: TreePath,
}

/// The files that a command's bind mounts show. A command that need not run lists none.
pub(crate) struct MountedFiles {
    /// By the mounts' targets.
    trees: Vec<(String, MountedTree)>,
    files: OnceLock<Files>,
}

impl MountedFiles {
    /// What is shown, one by one: `TARGET\0PATH`. Of what can't be read any more nothing, which the command will tell.
    pub(crate) fn list(&self) -> &Files {
        self.files.get_or_init(|| {
            let mut files = FilesBuilder::default();
            for (target, MountedTree { view, path }) in &self.trees {
                let mut add = |path: &str, facts: &str, mark: Option<ContentMark>| {
                    files.add(&format!("{target}\0{path}"), facts, mark.map(|ContentMark(mark)| mark));
                };
                let above = view.get(path).ok().flatten().filter(|entry| entry.node.is_directory() && !path.is_root());
                above.iter().for_each(|entry| add(&path.to_string()[1..], &describe(entry), None));
                let selection = select(&**view, &whole(path)).ok();
                if selection.is_some_and(|selection| selection.describe(&mut add).is_err()) {
                    return FilesBuilder::default().finish();
                }
            }
            files.finish()
        })
    }
}

/// Selects a path with all that is in it.
fn whole(path: &TreePath) -> SelectOptions {
    SelectOptions { sources: vec![path.as_bytes().to_vec()], ..SelectOptions::default() }
}

/// Refuses a source where a mount has none: what begins empty holds no path.
///
/// COMPAT(buildkit): there, a cache that an earlier step filled may hold it.
fn refuse_source(mount: &PlannedMount, has_from: bool) -> Result<(), BuildError> {
    let below_top = !TreePath::clean(mount.source.as_bytes()).is_root();
    let refused = match mount.kind {
        MountType::Cache => below_top && !has_from,
        MountType::Tmpfs => below_top,
        MountType::Ssh => !mount.source.is_empty(),
        MountType::Bind | MountType::Secret => false,
    };
    if refused {
        let (kind, source) = (mount.kind.name(), &mount.source);
        return Err(BuildError::failed(format!("mount `{source}`"), format!("a {kind} mount has no such source")));
    }
    Ok(())
}

impl StageRun<'_, '_> {
    /// Adds mounts to a command's inputs: what they show, by content, and how.
    pub(crate) fn prepare_mounts(&self, run: &Run, inputs: &mut PreImage) -> Result<PreparedRun, BuildError> {
        let (mut sources, mut trees) = (Vec::new(), Vec::new());
        for (mount, from) in &run.mounts {
            let target = &mount.target;
            let shown = if target.is_empty() { mount.effective_id() } else { target.clone() };
            refuse_source(mount, from.is_some())?;
            let (name, mut facts) = (format!("mount {} {shown}", mount.kind.name()), String::new());
            let mounted = |from| self.mounted_source(mount, from).map_err(|error| error.at(run.place_of(mount)));
            let source = match mount.kind {
                MountType::Bind => {
                    let shown = mounted(from.as_ref().unwrap_or(&Source::Context))?;
                    facts = format!("{} {}", mount.source, mount.read_only);
                    inputs.add(format!("{} {target}", input::MOUNTED_FILES), shown.digest);
                    trees.extend(shown.tree.map(|tree| (target.clone(), tree)));
                    Some(shown.source)
                }
                MountType::Cache => match from {
                    Some(from) => Some(mounted(from)?.source),
                    None => {
                        self.build.carry.note_mount(&cache_id(run, mount, None));
                        None
                    }
                },
                MountType::Tmpfs => {
                    facts = mount.size_bytes.to_string();
                    None
                }
                MountType::Secret | MountType::Ssh => {
                    facts = format!(
                        "{} {:?} {:?} {:?} {:?}",
                        mount.effective_id(),
                        mount.env,
                        mount.mode,
                        mount.uid,
                        mount.gid
                    );
                    None
                }
            };
            inputs.add(name, facts);
            sources.push(source);
        }
        Ok(PreparedRun { sources, mounted: MountedFiles { trees, files: OnceLock::new() } })
    }

    /// The tree that `from` names, with the digest of what the mount shows of it.
    fn mounted_source(&self, mount: &PlannedMount, from: &Source) -> Result<Shown, BuildError> {
        let action = || self.build.mounting((self.key.platform, from), &mount.source);
        let stack = match from {
            Source::Scratch => Some(Vec::new()),
            Source::Context => None,
            Source::Stage(stage) => Some(self.build.stage_result(self.key.platform, *stage)?.stack.clone()),
            Source::Named(_) | Source::Image { .. } => self.build.image_stack(from),
        };
        let view = self.source_view(from)?;
        let path = resolve(&*view, mount.source.as_bytes(), FollowLast::Yes).during(action)?;
        let Some(entry) = view.get(&path).during(action)? else {
            return Err(self.build.missing_mount(&*view, (self.key.platform, from), &mount.source));
        };
        let is_directory = entry.node.is_directory();
        // Of a whole image the layers say as much as all its files, and are known without a look at them.
        if let Some(stack) = stack.as_ref().filter(|_| path.is_root()) {
            let ids: Vec<String> = stack.iter().map(|layer| layer.diff_id.to_string()).collect();
            let source = MountedSource { stack: stack.clone(), path, is_directory };
            return Ok(Shown { source, digest: ids.join(" "), tree: None });
        }
        let options = whole(&path);
        let look = || fingerprint(&*view, &options);
        let print = match from {
            Source::Context => self.build.context().fingerprint(&options),
            _ => look(),
        };
        let print = print.during(action)?.digest();
        let digest = blake3::hash(format!("{path} {} {print}", describe(&entry)).as_bytes()).to_hex().to_string();
        let stack = match stack {
            Some(stack) => stack,
            None => single(self.build.layers.materialize(&digest, || {
                let part = part_of(&*view, &path).during(action)?.expect("its root was just seen");
                if look().during(action)?.digest() != print {
                    return Err(BuildError::failed(action(), ChangedFiles));
                }
                Ok(part.changes)
            })?),
        };
        let tree = Some(MountedTree { view, path: path.clone() });
        Ok(Shown { source: MountedSource { stack, path, is_directory }, digest, tree })
    }

    pub(super) fn bind(
        &self,
        run: &Run,
        mount: &PlannedMount,
        source: &MountedSource,
        work: &Path,
    ) -> Result<Wanted, BuildError> {
        let mut lower = self.build.layers.unpacked_stack(&source.stack)?;
        lower.reverse();
        let action = || format!("mount `{}`", mount.source);
        let writable = if mount.read_only {
            None
        } else {
            let layer = WritableLayer { upper: work.join("upper"), work: work.join("work") };
            std::fs::create_dir_all(&layer.upper).and_then(|()| std::fs::create_dir_all(&layer.work)).during(action)?;
            Some(layer)
        };
        if lower.is_empty() {
            let empty = work.join("empty");
            std::fs::create_dir_all(&empty).during(action)?;
            lower.push(empty);
        }
        Ok(Wanted {
            target: absolute(run, &mount.target),
            source: MountSource::Overlay { overlay: Overlay { lower, writable }, path: source.path.clone() },
            read_only: mount.read_only,
            kind: if source.is_directory { MountKind::Directory } else { MountKind::File },
        })
    }

    pub(super) fn cache(
        &self,
        run: &Run,
        mount: &PlannedMount,
        from: Option<&MountedSource>,
        keep: &mut Keep,
    ) -> Result<Wanted, BuildError> {
        let store = self.build.layers.store();
        let id = cache_id(run, mount, from);
        let sharing = match mount.sharing {
            // Without mounts the command works on a copy, which replaces the cache afterwards.
            None | Some(Sharing::Shared) if self.build.options.isolation == Isolation::Chroot => CacheSharing::Locked,
            None | Some(Sharing::Shared) => CacheSharing::Shared,
            Some(Sharing::Private) => CacheSharing::Private,
            Some(Sharing::Locked) => CacheSharing::Locked,
        };
        let action = || format!("open the cache `{}`", mount.effective_id());
        let anew = !matches!(self.build.options.no_cache, NoCache::Never);
        let fill = |folder: &Path| {
            if from.is_none() && !anew {
                self.build.carry.fill_mount(self.build, &id, folder)?;
            }
            self.fill_cache(folder, mount, from).map_err(std::io::Error::other)
        };
        if anew && self.build.first_use_of_cache(&id) {
            store.remove_cache_mount(&id).during(action)?;
        }
        let cache = loop {
            match store.try_cache_mount(&id, sharing, fill).during(action)? {
                Some(cache) => break cache,
                None => {
                    self.build.check_cancelled()?;
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
        };
        let about = MountAbout { id: mount.effective_id(), namespace: run.cache_namespace.clone() };
        store.describe_cache_mount(&id, &about).during(action)?;
        let path = cache.path().to_owned();
        keep.push(Arc::new(cache));
        Ok(Wanted {
            target: absolute(run, &mount.target),
            source: MountSource::Bind(path),
            read_only: mount.read_only,
            kind: MountKind::Directory,
        })
    }

    /// Gives a new cache its first content.
    fn fill_cache(&self, folder: &Path, mount: &PlannedMount, from: Option<&MountedSource>) -> Result<(), BuildError> {
        let action = || format!("fill the cache `{}`", mount.effective_id());
        let mut metadata = crate::tree::Metadata {
            mode: mount.mode.unwrap_or(0o755),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            ..Default::default()
        };
        if let Some(from) = from {
            let view = self.build.layers.view_with_files(&from.stack)?;
            if let Some(part) = part_of(&view, &from.path).during(action)? {
                if let Some(root) = view.get(&from.path).during(action)? {
                    metadata = crate::tree::Metadata { xattrs: Default::default(), ..root.metadata };
                }
                crate::layer::unpack_changes(&rebase(part.changes, &from.path).into(), folder).during(action)?;
            }
        }
        crate::exec::materialize::set_metadata(folder, &metadata).during(action)
    }
}

/// The hash of what a cache mount is.
fn cache_id(run: &Run, mount: &PlannedMount, from: Option<&MountedSource>) -> String {
    let owner = (mount.uid, mount.gid, mount.mode);
    let mut hasher = identity(&run.cache_namespace, &mount.effective_id(), owner);
    if let Some(from) = from {
        hasher.update(
            format!("\0{:?}\0{}", from.stack.iter().map(|l| l.diff_id).collect::<Vec<_>>(), from.path).as_bytes(),
        );
    }
    hasher.finalize().to_hex().to_string()
}
