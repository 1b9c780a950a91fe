//! `RUN --mount`, and the mounts that every command has: name resolution, scripts, certificate authorities.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_dockerfile::mount::{Mount as PlannedMount, MountType, Sharing};

use super::ca::{AUTHORITY_FOLDER, AuthorityRequest, authorities};
use super::host_files;
use super::layers::StackLayer;
use super::materialize::{part_of, rebase, single};
use super::options::Secret;
use super::run::{Keep, PreparedRun};
use super::ssh_agent::SocketOwner;
use super::stage::StageRun;
use crate::cache::{Files, PreImage, input};
use crate::error::{BuildError, During};
use crate::plan::{NetworkChoice, Run, Source};
use crate::snapshot::{MountKind, MountPoint, MountPointLayer, mount_point_layer};
use crate::store::CacheSharing;
use crate::sys::mount::{Overlay, WritableLayer};
use crate::sys::sandbox::{Mount, MountSource, TmpfsFile};
use crate::tree::{FollowLast, MergedTree, TreePath, TreeView, resolve};

/// The largest secret: bytes.
const SECRET_LIMIT: u64 = 500 << 10;

/// The tree that a mount shows, and the path in it.
#[derive(Clone)]
pub(crate) struct MountedSource {
    pub(crate) stack: Vec<StackLayer>,
    pub(crate) path: TreePath,
    is_directory: bool,
}

/// What a mount shows, and how that is told from something else.
struct Shown {
    source: MountedSource,
    digest: String,
    files: Files,
}

/// The mounts of a command.
pub(crate) struct Mounted {
    pub(crate) mounts: Vec<Mount>,
    /// The mount points that the image lacks.
    pub(crate) layer: MountPointLayer,
    /// A folder with them, ready to be an overlay lower directory.
    pub(crate) stub_folder: Option<PathBuf>,
    /// Locks and sockets that live as long as the command.
    pub(crate) keep: Keep,
    /// What bind mounts show, by target.
    pub(crate) binds: BTreeMap<TreePath, MountedSource>,
}

/// A mount on its way: where to, what, and what kind of mount point it needs.
struct Wanted {
    target: TreePath,
    source: MountSource,
    read_only: bool,
    kind: MountKind,
}

impl StageRun<'_, '_> {
    /// Adds mounts to a command's inputs: what they show, by content, and how.
    pub(crate) fn prepare_mounts(&self, run: &Run, inputs: &mut PreImage) -> Result<PreparedRun, BuildError> {
        let (mut sources, mut files) = (Vec::new(), Files::new());
        for (mount, from) in &run.mounts {
            let target = &mount.target;
            let (name, mut facts) = (format!("mount {} {target}", mount.kind.name()), String::new());
            let source = match mount.kind {
                MountType::Bind => {
                    let shown = self.mounted_source(mount, from.as_ref().unwrap_or(&Source::Context))?;
                    facts = format!("{} {}", mount.source, mount.read_only);
                    inputs.add(format!("{} {target}", input::MOUNTED_FILES), shown.digest);
                    files.extend(shown.files.into_iter().map(|(path, text)| (format!("{target}\0{path}"), text)));
                    Some(shown.source)
                }
                MountType::Cache => match from {
                    Some(from) => Some(self.mounted_source(mount, from)?.source),
                    None => None,
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
        Ok(PreparedRun { sources, files })
    }

    /// The tree that `from` names, with the digest of what the mount shows of it.
    fn mounted_source(&self, mount: &PlannedMount, from: &Source) -> Result<Shown, BuildError> {
        let action = || format!("mount `{}`", mount.source);
        let stack = match from {
            Source::Scratch => Some(Vec::new()),
            Source::Context => None,
            Source::Stage(stage) => Some(self.build.stage_result(self.key.platform, *stage)?.stack.clone()),
            Source::Named(_) | Source::Image { .. } => self.build.image_stack(from),
        };
        let view = self.source_view(from)?;
        let path = resolve(&*view, mount.source.as_bytes(), FollowLast::Yes).during(action)?;
        let Some(entry) = view.get(&path).during(action)? else {
            return Err(BuildError::failed(action(), format!("`{}` was not found", mount.source)));
        };
        let is_directory = entry.node.is_directory();
        // Of a whole image the layers say as much as all its files, and are known without a look at them.
        if let Some(stack) = stack.as_ref().filter(|_| path.is_root()) {
            let ids: Vec<String> = stack.iter().map(|layer| layer.diff_id.to_string()).collect();
            let source = MountedSource { stack: stack.clone(), path, is_directory };
            return Ok(Shown { source, digest: ids.join(" "), files: Files::new() });
        }
        let part = part_of(&*view, &path).during(action)?.expect("its root was just seen");
        let stack = match stack {
            Some(stack) => stack,
            None => single(self.build.layers.materialize(&part)?),
        };
        Ok(Shown { source: MountedSource { stack, path, is_directory }, digest: part.digest, files: part.files })
    }

    /// Makes a command's mounts. What is needed on disk goes below `work`.
    pub(crate) fn mounts(
        &self,
        run: &Run,
        prepared: &PreparedRun,
        below: &MergedTree,
        work: &Path,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Mounted, BuildError> {
        let mut keep: Keep = Vec::new();
        let mut wanted = self.standard_mounts(run, below, environment)?;
        let mut binds = BTreeMap::new();
        for (number, ((mount, _), source)) in run.mounts.iter().zip(&prepared.sources).enumerate() {
            let made = match mount.kind {
                MountType::Bind => {
                    let source = source.as_ref().expect("a bind mount was given its source");
                    binds.insert(absolute(run, &mount.target), source.clone());
                    Some(self.bind(run, mount, source, &work.join(format!("mount-{number}")))?)
                }
                MountType::Cache => Some(self.cache(run, mount, source.as_ref(), &mut keep)?),
                MountType::Tmpfs => Some(Wanted {
                    target: absolute(run, &mount.target),
                    source: MountSource::Tmpfs {
                        size_bytes: u64::try_from(mount.size_bytes).ok().filter(|s| *s > 0),
                        mode: 0o1777,
                        files: Vec::new(),
                    },
                    read_only: mount.read_only,
                    kind: MountKind::Directory,
                }),
                MountType::Secret => self.secret(run, mount, environment)?,
                MountType::Ssh => self.ssh(run, mount, environment, work, &mut keep)?,
            };
            wanted.extend(made);
        }
        // A mount below another one must come after it.
        wanted.sort_by(|a, b| a.target.cmp(&b.target));
        let mut mounted = self.place_mounts(wanted, below, work, keep)?;
        for (target, source) in binds {
            let target =
                resolve(below, target.as_bytes(), FollowLast::Yes).during(|| "make the mount points".to_owned())?;
            mounted.binds.insert(target, source);
        }
        Ok(mounted)
    }

    fn place_mounts(
        &self,
        wanted: Vec<Wanted>,
        below: &MergedTree,
        work: &Path,
        keep: Keep,
    ) -> Result<Mounted, BuildError> {
        let action = || "make the mount points".to_owned();
        let points: Vec<MountPoint> =
            wanted.iter().map(|w| MountPoint { path: w.target.clone(), kind: w.kind }).collect();
        let placed = mount_point_layer(below, &points).during(action)?;
        let mut stub_folder = None;
        if !placed.changes.is_empty() {
            let folder = work.join("mount-points");
            std::fs::create_dir(&folder).during(action)?;
            crate::layer::unpack_changes(&placed.changes, &folder).during(action)?;
            stub_folder = Some(folder);
        }
        let mounts = wanted
            .into_iter()
            .zip(&placed.targets)
            .map(|(wanted, target)| Mount {
                target: target.clone(),
                source: wanted.source,
                read_only: wanted.read_only,
            })
            .collect();
        Ok(Mounted { mounts, layer: placed, stub_folder, keep, binds: BTreeMap::new() })
    }

    /// What every command has besides the sandbox's own: names of hosts, scripts, authorities.
    fn standard_mounts(
        &self,
        run: &Run,
        below: &MergedTree,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Vec<Wanted>, BuildError> {
        let mut wanted = vec![
            file("/etc/hosts", host_files::hosts(&run.hostname, &self.build.extra_hosts()).into_bytes()),
            file("/etc/resolv.conf", self.build.resolv_conf(run.network)),
        ];
        if run.network == NetworkChoice::None {
            wanted.truncate(1);
        }
        if !run.scripts.is_empty() {
            let files = run
                .scripts
                .iter()
                .map(|(name, body)| in_memory(name, 0o755, body.as_bytes()))
                .collect::<Result<_, _>>()?;
            wanted.push(folder_in_memory("/dev/pipes", files));
        }
        if let Some(given) = &self.build.options.certificate_authorities {
            let request = AuthorityRequest { given, host_bundle: self.build.host_bundle(), below, environment };
            let authorities =
                authorities(&request).during(|| "hand over the certificate authorities (--ca)".to_owned())?;
            let files = authorities
                .files
                .iter()
                .map(|(name, bytes)| in_memory(name, 0o644, bytes))
                .collect::<Result<_, _>>()?;
            wanted.push(folder_in_memory(AUTHORITY_FOLDER, files));
            for path in authorities.mount_over {
                let bundle =
                    authorities.files.iter().find(|(name, _)| *name == "ca.crt").map(|(_, bytes)| bytes.clone());
                wanted.push(Wanted { target: path, ..file("/", bundle.unwrap_or_default()) });
            }
            for (name, value) in authorities.environment {
                environment.retain(|(n, _)| *n != name);
                environment.push((name, value));
            }
        }
        Ok(wanted)
    }

    fn bind(&self, run: &Run, mount: &PlannedMount, source: &MountedSource, work: &Path) -> Result<Wanted, BuildError> {
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

    fn cache(
        &self,
        run: &Run,
        mount: &PlannedMount,
        from: Option<&MountedSource>,
        keep: &mut Keep,
    ) -> Result<Wanted, BuildError> {
        let store = self.build.layers.store();
        let identity = format!("{}\0{}", run.cache_namespace, mount.effective_id());
        let mut hasher = blake3::Hasher::new();
        hasher.update(identity.as_bytes());
        hasher.update(format!("\0{:?}\0{:?}\0{:?}", mount.uid, mount.gid, mount.mode).as_bytes());
        if let Some(from) = from {
            hasher.update(
                format!("\0{:?}\0{}", from.stack.iter().map(|l| l.diff_id).collect::<Vec<_>>(), from.path).as_bytes(),
            );
        }
        let id = hasher.finalize().to_hex().to_string();
        let sharing = match mount.sharing {
            // Without mounts the command works on a copy, which replaces the cache afterwards.
            None | Some(Sharing::Shared) if self.build.options.isolation == super::options::Isolation::Chroot => {
                CacheSharing::Locked
            }
            None | Some(Sharing::Shared) => CacheSharing::Shared,
            Some(Sharing::Private) => CacheSharing::Private,
            Some(Sharing::Locked) => CacheSharing::Locked,
        };
        let action = || format!("open the cache `{}`", mount.effective_id());
        let fill = |folder: &Path| self.fill_cache(folder, mount, from).map_err(std::io::Error::other);
        if !matches!(self.build.options.no_cache, super::options::NoCache::Never) && self.build.first_use_of_cache(&id)
        {
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
            let view = self.build.layers.view(&from.stack)?;
            if let Some(part) = part_of(&view, &from.path).during(action)? {
                if let Some(root) = view.get(&from.path).during(action)? {
                    metadata = crate::tree::Metadata { xattrs: Default::default(), ..root.metadata };
                }
                crate::layer::unpack_changes(&rebase(part.changes, &from.path), folder).during(action)?;
            }
        }
        super::materialize::set_metadata(folder, &metadata).during(action)
    }

    fn secret(
        &self,
        run: &Run,
        mount: &PlannedMount,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Option<Wanted>, BuildError> {
        let id = mount.effective_id();
        let Some(secret) = self.build.options.secrets.get(&id) else {
            if mount.required {
                return Err(BuildError::failed(format!("mount the secret `{id}`"), "it is required and was not given")
                    .with_help(format!("hand it over with --secret id={id},src=FILE")));
            }
            if let Some(name) = &mount.env {
                environment.retain(|(n, _)| n != name);
                environment.push((name.clone(), String::new()));
            }
            return Ok(None);
        };
        let bytes = read_secret(&id, secret)?;
        if let Some(name) = &mount.env {
            let text = String::from_utf8(bytes.clone()).map_err(|_| {
                BuildError::failed(format!("set `{name}` to the secret `{id}`"), "it is no valid text (UTF-8)")
            })?;
            environment.retain(|(n, _)| n != name);
            environment.push((name.clone(), text));
        }
        let Some(target) = mount.secret_target() else { return Ok(None) };
        let (mode, uid, gid) = (mount.mode.unwrap_or(0o400), mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        Ok(Some(Wanted {
            target: absolute(run, &target),
            source: MountSource::SecretFile { bytes, mode, uid, gid },
            read_only: true,
            kind: MountKind::File,
        }))
    }

    fn ssh(
        &self,
        run: &Run,
        mount: &PlannedMount,
        environment: &mut Vec<(String, String)>,
        work: &Path,
        keep: &mut Keep,
    ) -> Result<Option<Wanted>, BuildError> {
        let id = mount.effective_id();
        if !self.build.options.ssh.contains_key(&id) {
            if mount.required {
                return Err(BuildError::failed(
                    format!("mount the ssh agent `{id}`"),
                    "it is required and was not given",
                )
                .with_help(format!("hand it over with --ssh {id}")));
            }
            return Ok(None);
        }
        let action = || format!("forward the ssh agent `{id}`");
        let agent = self.build.ssh_agent(&id)?;
        let owner =
            SocketOwner { uid: mount.uid.unwrap_or(0), gid: mount.gid.unwrap_or(0), mode: mount.mode.unwrap_or(0o600) };
        let socket = agent.forward(work, owner).during(action)?;
        let number = environment.iter().filter(|(name, _)| name == "SSH_AUTH_SOCK").count();
        let target =
            if mount.target.is_empty() { format!("/run/buildkit/ssh_agent.{number}") } else { mount.target.clone() };
        let target = absolute(run, &target);
        if number == 0 {
            environment.push(("SSH_AUTH_SOCK".to_owned(), format!("/{}", String::from_utf8_lossy(target.as_bytes()))));
        }
        let source = MountSource::Socket(socket.path().to_owned());
        keep.push(Arc::new(socket));
        Ok(Some(Wanted { target, source, read_only: true, kind: MountKind::File }))
    }
}

/// A mount's target: relative ones count from the working directory.
fn absolute(run: &Run, target: &str) -> TreePath {
    if target.starts_with('/') {
        TreePath::clean(target.as_bytes())
    } else {
        TreePath::clean(format!("{}/{target}", run.working_dir).as_bytes())
    }
}

fn file(path: &str, bytes: Vec<u8>) -> Wanted {
    Wanted {
        target: TreePath::clean(path.as_bytes()),
        source: MountSource::SecretFile { bytes, mode: 0o644, uid: 0, gid: 0 },
        read_only: true,
        kind: MountKind::File,
    }
}

fn folder_in_memory(path: &str, files: Vec<TmpfsFile>) -> Wanted {
    Wanted {
        target: TreePath::clean(path.as_bytes()),
        source: MountSource::Tmpfs { size_bytes: None, mode: 0o755, files },
        read_only: true,
        kind: MountKind::Directory,
    }
}

fn in_memory(name: &str, mode: u32, bytes: &[u8]) -> Result<TmpfsFile, BuildError> {
    let name = std::ffi::CString::new(name).during(|| format!("make the file `{name}`"))?;
    Ok(TmpfsFile { name, mode, uid: 0, gid: 0, bytes: bytes.to_vec() })
}

fn read_secret(id: &str, secret: &Secret) -> Result<Vec<u8>, BuildError> {
    let action = || format!("read the secret `{id}`");
    let bytes = match secret {
        Secret::Bytes(bytes) => bytes.to_vec(),
        Secret::File(path) => {
            std::fs::read(path).during(|| format!("read the secret `{id}` from `{}`", path.display()))?
        }
    };
    if bytes.len() as u64 > SECRET_LIMIT {
        return Err(BuildError::failed(action(), format!("it is larger than {SECRET_LIMIT} bytes")));
    }
    Ok(bytes)
}
