//! RUN: a command over the stage's tree.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::devices::DeviceEdits;
use super::encoding::AddOptions;
use super::execute::{Executed, execute};
use super::mounts::{MountedFiles, MountedSource};
use super::options::Isolation;
use super::stage::{Made, StageRun};
use super::unread_copy::Taken;
use crate::cache::{PreImage, input};
use crate::error::{BuildError, During};
use crate::plan::{NetworkChoice, Run};
use crate::progress::{Event, StepId};
use crate::rootfs::{Root, remove_contents};
use crate::sys::mount::{Overlay, WritableLayer};
use crate::sys::sandbox::{NetworkMode, Process, ResourceLimit, RootMount, SandboxSpec, SecurityMode};
use crate::tree::{ChangeList, FollowLast, MergedTree, User, lookup_user, resolve};

/// A command's inputs besides the tree below.
pub(crate) struct PreparedRun {
    pub(crate) sources: Vec<Option<MountedSource>>,
    /// What bind mounts show.
    pub(crate) mounted: MountedFiles,
}

/// What a command gets of this machine.
pub(crate) struct GivenByHost<'a> {
    pub(crate) devices: &'a DeviceEdits,
    pub(crate) network: &'a NetworkMode,
}

/// A command and what it was prepared from.
pub(crate) struct Command<'a> {
    pub(crate) run: &'a Run,
    pub(crate) id: StepId,
    pub(crate) below: &'a MergedTree,
    pub(crate) user: &'a User,
    pub(crate) environment: &'a [(String, String)],
    /// The step's own folder in the store.
    pub(crate) work: &'a std::path::Path,
}

impl Command<'_> {
    pub(crate) fn process(&self) -> Process {
        let environment = self.environment.iter().map(|(name, value)| OsString::from(format!("{name}={value}")));
        Process {
            arguments: self.run.argv.iter().map(OsString::from).collect(),
            environment: environment.collect(),
            working_directory: OsString::from(&self.run.working_dir),
            uid: self.user.uid,
            gid: self.user.gid,
            groups: self.user.groups.clone(),
        }
    }
}

impl StageRun<'_, '_> {
    pub(crate) fn prepare_run(&self, run: &Run, inputs: &mut PreImage) -> Result<PreparedRun, BuildError> {
        inputs.add("command", serde_json::to_string(&run.argv).expect("strings are JSON"));
        for (name, value) in &run.env {
            let kind = if run.args.contains(name) { "ARG" } else { "ENV" };
            inputs.add(format!("{kind} {name}"), input::recorded(name, value));
        }
        inputs.add("working directory", &run.working_dir);
        inputs.add("user", &run.user);
        inputs.add("network", run.network.as_str());
        inputs.add("security", if run.insecure { "insecure" } else { "sandbox" });
        inputs.add("host name", &run.hostname);
        for (name, _) in &self.build.options.extra_hosts {
            inputs.add("extra host", name);
        }
        if let Some(size) = self.build.options.shm_size {
            inputs.add("shm size", size.to_string());
        }
        for (name, soft, hard) in &self.build.options.ulimits {
            inputs.add(format!("ulimit {name}"), format!("{soft}:{hard}"));
        }
        for (name, required) in &run.devices {
            inputs.add(format!("device {name}"), required.to_string());
        }
        for (name, body) in &run.scripts {
            inputs.add(format!("heredoc {name}"), body.to_string());
        }
        self.add_epoch(inputs);
        self.prepare_mounts(run, inputs)
    }

    pub(crate) fn run(&self, run: &Run, prepared: &PreparedRun, id: StepId) -> Result<Made, BuildError> {
        loop {
            let tried = self.try_to_run(run, prepared, id).map_err(|error| self.advised(error, run))?;
            if let Some(made) = tried {
                return Ok(made);
            }
            self.build.events.event(Event::Note("network: the command is started again, on the host's".to_owned()));
        }
    }

    /// Runs a command; gives nothing, and keeps nothing, where it lost the network that it was started on.
    fn try_to_run(&self, run: &Run, prepared: &PreparedRun, id: StepId) -> Result<Option<Made>, BuildError> {
        let build = self.build;
        let devices = build.device_edits(run)?;
        let network = self.network(run);
        let below = self.below()?;
        let user = lookup_user(&below, &run.user).during(|| format!("look up the user `{}`", run.user));
        let mut user = user.map_err(super::advice::of_user)?;
        let work = build.layers.store().unpack_dir().during(|| "make a folder for the step".to_owned())?;
        user.groups.extend(&devices.groups);
        let mut environment = self.environment(run, &user);
        for (name, value) in &devices.environment {
            environment.retain(|(other, _)| other != name);
            environment.push((name.clone(), value.clone()));
        }
        let host = GivenByHost { devices: &devices, network: &network };
        let mounted = self.mounts(run, prepared, &host, &below, work.path(), &mut environment)?;
        let command = Command { run, id, below: &below, user: &user, environment: &environment, work: work.path() };
        match build.options.isolation {
            Isolation::Namespaces => {
                let folders = build.layers.unpacked_stack(&self.stack)?;
                let made = self.run_over_layers(&command, network, folders, mounted)?;
                build.remover.remove(work);
                Ok(made)
            }
            Isolation::Chroot => super::chroot::run(self, &command, mounted).map(Some),
        }
    }

    /// The command's environment: what the stage has set, and what everything expects to be there.
    fn environment(&self, run: &Run, user: &User) -> Vec<(String, String)> {
        let mut environment = run.env.clone();
        for (name, value) in &run.proxy_env {
            if !environment.iter().any(|(n, _)| n == name) {
                environment.push((name.clone(), value.clone()));
            }
        }
        if !environment.iter().any(|(name, _)| name == "HOME") {
            let home =
                user.home.as_deref().map_or_else(|| "/".to_owned(), |home| String::from_utf8_lossy(home).into_owned());
            environment.push(("HOME".to_owned(), home));
        }
        environment
    }

    fn run_over_layers(
        &self,
        command: &Command<'_>,
        network: NetworkMode,
        mut folders: Vec<PathBuf>,
        mounted: super::mounts::Mounted,
    ) -> Result<Option<Made>, BuildError> {
        let Command { run, id, below, work, .. } = *command;
        let action = || "prepare the command".to_owned();
        let (upper, scratch) = (work.join("upper"), work.join("work"));
        crate::snapshot::make_upper(&upper, below).during(action)?;
        make_directory(&scratch).during(action)?;
        folders.reverse();
        if let Some(stubs) = &mounted.stub_folder {
            folders.insert(0, stubs.path().to_owned());
        }
        if folders.is_empty() {
            let empty = work.join("empty");
            make_directory(&empty).during(action)?;
            folders.push(empty);
        }
        self.make_working_directory(run, below, &upper)?;
        let overlay =
            Overlay { lower: folders, writable: Some(WritableLayer { upper: upper.clone(), work: scratch.clone() }) };
        let mut spec = SandboxSpec::new(RootMount::Overlay(overlay), command.process());
        spec.mounts = mounted.mounts;
        spec.network = network;
        spec.security = if run.insecure { SecurityMode::Insecure } else { SecurityMode::Sandbox };
        spec.hostname = OsString::from(&run.hostname);
        if let Some(size) = self.build.options.shm_size {
            spec.shm_size_bytes = size;
        }
        spec.limits = self.build.options.ulimits.iter().filter_map(|(n, s, h)| limit(n, *s, *h)).collect();
        let Executed::Done { peak_bytes } = execute(self.build, id, spec)? else { return Ok(None) };
        drop(mounted.keep);
        // All marks of removed files are names of one node that overlayfs keeps there as well: its removal changes their
        // status, which is sealed with the layer.
        let scratch = Root::open(&scratch).during(action)?;
        remove_contents(scratch.as_fd()).during(action)?;
        let made = self.take_changes(below, &upper, &mounted.layer.own)?;
        Ok(Some(Made { peak_bytes, ..made }))
    }

    /// Whether a command's changes are compressed while their diff ID is computed, and not while the next step runs:
    /// where there is no next step, and where it is no work.
    fn is_compressed_at_once(&self, changes: &ChangeList) -> bool {
        self.is_last() || !crate::layer::is_large(changes)
    }

    /// The network of a command. The private one is connected when a command wants a socket, and at once for one that
    /// nothing holds back.
    fn network(&self, run: &Run) -> NetworkMode {
        match (self.build.options.isolation, run.network) {
            (Isolation::Chroot, _) | (_, NetworkChoice::Host) => NetworkMode::Host,
            (_, NetworkChoice::None) => NetworkMode::None,
            (_, NetworkChoice::Default) => {
                if run.insecure {
                    self.build.connect_network();
                }
                self.build.default_network()
            }
        }
    }

    /// Makes the working directory where an earlier step removed it; it then belongs to the layer.
    fn make_working_directory(&self, run: &Run, below: &MergedTree, upper: &std::path::Path) -> Result<(), BuildError> {
        let action = || format!("make the working directory `{}`", run.working_dir);
        let path = resolve(below, run.working_dir.as_bytes(), FollowLast::Yes).during(action)?;
        let time = self.build.file_epoch().map_or_else(
            || crate::tree::Timestamp::from_seconds(self.build.now()),
            crate::tree::Timestamp::from_seconds,
        );
        let changes = super::materialize::make_directories(below, &path, (0, 0), time).during(action)?;
        if !changes.is_empty() {
            crate::layer::unpack_changes(&changes.into(), upper).during(action)?;
        }
        Ok(())
    }

    /// Turns what the command left in the upper directory into a layer, and the directory into its unpacked form.
    fn take_changes(
        &self,
        below: &MergedTree,
        upper: &std::path::Path,
        own: &crate::snapshot::StepPaths,
    ) -> Result<Made, BuildError> {
        let action = || "read what the command changed".to_owned();
        let folder = self.build.layers.store().temp_folder().during(action)?;
        let mut changes = crate::snapshot::upper_changes(upper, below, own, &folder).during(action)?;
        if let Some(epoch) = self.build.file_epoch() {
            super::materialize::clamp_times(upper, &changes, epoch).during(action)?;
            let clamped = changes.iter().map(|change| Ok(crate::snapshot::clamp_time(change?, epoch)));
            changes = ChangeList::collect_in(&folder, clamped).during(action)?;
        }
        let (compression, later) = self.now_or_later(!self.is_compressed_at_once(&changes));
        let diff_id = self.build.layers.add(&changes, AddOptions { compression, later, ..AddOptions::default() })?;
        drop(changes);
        self.build.layers.store().adopt_unpacked(diff_id, upper).during(action)?;
        Ok(Made { diff_id, files: None, peak_bytes: 0, taken: Taken::AsPrepared })
    }
}

fn make_directory(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o755).create(path)
}

/// The resource limit of a name of `--ulimit`.
fn limit(name: &str, soft: u64, hard: u64) -> Option<ResourceLimit> {
    use crate::sys::sandbox::Resource;
    let resource = match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    };
    Some(ResourceLimit { resource, soft: Some(soft), hard: Some(hard) })
}

/// Shares what keeps mounts alive.
pub(crate) type Keep = Vec<Arc<dyn std::any::Any + Send + Sync>>;
