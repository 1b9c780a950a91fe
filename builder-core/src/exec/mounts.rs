//! `RUN --mount`, and the mounts that every command has: name resolution, scripts, certificate authorities.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rbuild_dockerfile::mount::MountType;

use super::ca::{AUTHORITY_FOLDER, AuthorityRequest, authorities};
use super::host_files;
use super::layers::StackLayer;
use super::run::{GivenByHost, Keep, PreparedRun};
use super::stage::StageRun;
use crate::error::{BuildError, During};
use crate::plan::{NetworkChoice, Run};
use crate::snapshot::{MountKind, MountPoint, MountPointLayer, mount_point_layer};
use crate::store::TempDir;
use crate::sys::sandbox::{Mount, MountSource, NetworkMode, TmpfsFile};
use crate::tree::{FollowLast, MergedTree, TreePath, resolve};

mod devices;
mod emulator;
mod points;
mod secrets;
mod trees;

use devices::device_mounts;
pub(crate) use points::MountPointFolders;
pub(crate) use trees::MountedFiles;

/// The files of name resolution that every step has.
const NAME_RESOLUTION: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// The tree that a mount shows, and the path in it.
#[derive(Clone)]
pub(crate) struct MountedSource {
    pub(crate) stack: Vec<StackLayer>,
    pub(crate) path: TreePath,
    is_directory: bool,
}

/// The mounts of a command.
pub(crate) struct Mounted {
    pub(crate) mounts: Vec<Mount>,
    /// The mount points that the image lacks.
    pub(crate) layer: MountPointLayer,
    /// A folder with them, ready to be an overlay lower directory.
    pub(crate) stub_folder: Option<Arc<TempDir>>,
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
    /// Makes a command's mounts. What is needed on disk goes below `work`.
    pub(crate) fn mounts(
        &self,
        run: &Run,
        prepared: &PreparedRun,
        host: &GivenByHost<'_>,
        below: &MergedTree,
        work: &Path,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Mounted, BuildError> {
        let mut keep: Keep = Vec::new();
        let mut wanted = self.standard_mounts(run, host.network, below, environment)?;
        hide_name_resolution(run, &mut wanted);
        wanted.extend(device_mounts(host.devices));
        wanted.extend(self.emulator_mount(below)?);
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
        let mut mounted = self.place_mounts(wanted, below, keep)?;
        for (target, source) in binds {
            let target =
                resolve(below, target.as_bytes(), FollowLast::Yes).during(|| "make the mount points".to_owned())?;
            mounted.binds.insert(target, source);
        }
        Ok(mounted)
    }

    fn place_mounts(&self, wanted: Vec<Wanted>, below: &MergedTree, keep: Keep) -> Result<Mounted, BuildError> {
        let action = || "make the mount points".to_owned();
        let points: Vec<MountPoint> =
            wanted.iter().map(|w| MountPoint { path: w.target.clone(), kind: w.kind }).collect();
        let placed = mount_point_layer(below, &points).during(action)?;
        let stub_folder = self.build.mount_points.folder(&placed.changes, self.build.layers.store())?;
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
        network: &NetworkMode,
        below: &MergedTree,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Vec<Wanted>, BuildError> {
        let is_private = !matches!(network, NetworkMode::Host);
        let mut wanted = vec![
            file(NAME_RESOLUTION[0], host_files::hosts(&run.hostname, &self.build.extra_hosts()).into_bytes()),
            file(NAME_RESOLUTION[1], host_files::resolv_conf(is_private)),
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
}

/// Takes the files of name resolution away that a mount of the step covers.
///
/// COMPAT(buildkit): it mounts them first, so that the step sees what its own mount shows, and nothing is made in there.
fn hide_name_resolution(run: &Run, wanted: &mut Vec<Wanted>) {
    let trees = run.mounts.iter().map(|(mount, _)| mount);
    let trees = trees.filter(|mount| matches!(mount.kind, MountType::Bind | MountType::Cache | MountType::Tmpfs));
    let targets: Vec<TreePath> = trees.map(|mount| absolute(run, &mount.target)).collect();
    let files = NAME_RESOLUTION.map(|path| TreePath::clean(path.as_bytes()));
    wanted.retain(|wanted| {
        let covered = |target: &TreePath| wanted.target != *target && wanted.target.starts_with(target);
        !files.contains(&wanted.target) || !targets.iter().any(covered)
    });
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
