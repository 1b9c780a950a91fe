//! What a step gets of its devices.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spec::{Edits, Mount, Node};
use super::{DeviceError, Registry};

/// Options of mounts that are as a step's mounts are anyway, or ask for less.
const PLAIN_OPTIONS: [&str; 14] = [
    "bind",
    "rbind",
    "rw",
    "nosuid",
    "nodev",
    "exec",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "relatime",
    "noatime",
    "norelatime",
    "strictatime",
];

/// What a step gets: paths of the host are there, and without links.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceEdits {
    /// Variables, a later one of the same name in place of an earlier one.
    pub(crate) environment: Vec<(String, String)>,
    /// Nodes: the host's, and where the step sees it.
    pub(crate) nodes: Vec<(PathBuf, String)>,
    /// Files and folders of the host.
    pub(crate) mounts: Vec<HostMount>,
    /// Further groups of the command.
    pub(crate) groups: Vec<u32>,
}

/// A file or folder of the host that a step sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HostMount {
    pub(crate) host: PathBuf,
    pub(crate) target: String,
    pub(crate) is_directory: bool,
    pub(crate) read_only: bool,
}

impl DeviceEdits {
    /// Collects what devices take; what all devices of a file take comes in once.
    ///
    /// # Errors
    /// When one takes what a step can't be given.
    pub(super) fn of(registry: &Registry, names: &[String]) -> Result<Self, DeviceError> {
        let mut made = Self::default();
        let mut done: Vec<Arc<Edits>> = Vec::new();
        for name in names {
            let Some(known) = registry.device(name) else { continue };
            let place = Place { device: name, file: &known.file };
            for edits in &known.edits {
                if !done.iter().any(|other| Arc::ptr_eq(other, edits)) {
                    done.push(Arc::clone(edits));
                    made.add(edits, &place)?;
                }
            }
        }
        Ok(made)
    }

    fn add(&mut self, edits: &Edits, place: &Place<'_>) -> Result<(), DeviceError> {
        if let Some(hook) = edits.hooks.first() {
            return Err(place.unsupported(format!("the {} hook `{}`", hook.hook_name, hook.path)));
        }
        if edits.intel_rdt.is_some() {
            return Err(place.unsupported("Intel RDT".to_owned()));
        }
        if !edits.net_devices.is_empty() {
            return Err(place.unsupported("a network device".to_owned()));
        }
        for (name, value) in edits.env.iter().filter_map(|text| text.split_once('=')) {
            self.environment.retain(|(other, _)| other != name);
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        for node in &edits.device_nodes {
            self.nodes.push((place.node(node)?, node.path.clone()));
        }
        for mount in &edits.mounts {
            self.mounts.push(place.mount(mount)?);
        }
        for group in &edits.additional_gids {
            if *group != 0 && !self.groups.contains(group) {
                self.groups.push(*group);
            }
        }
        Ok(())
    }
}

/// Where edits come from, for messages.
struct Place<'a> {
    device: &'a str,
    file: &'a Path,
}

impl Place<'_> {
    fn unsupported(&self, what: String) -> DeviceError {
        DeviceError::Unsupported { device: self.device.to_owned(), file: self.file.to_owned(), what }
    }

    fn wrong(&self, path: &str, why: impl ToString) -> DeviceError {
        DeviceError::Host {
            device: self.device.to_owned(),
            file: self.file.to_owned(),
            path: path.to_owned(),
            why: why.to_string(),
        }
    }

    /// Checks that the host has a node as it is described.
    fn node(&self, node: &Node) -> Result<PathBuf, DeviceError> {
        let path = node.host_path.as_deref().unwrap_or(&node.path);
        let real = std::fs::canonicalize(path).map_err(|error| self.wrong(path, error))?;
        let status = std::fs::symlink_metadata(&real).map_err(|error| self.wrong(path, error))?;
        let kind = status.file_type();
        let letter = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => "c",
            (_, true) => "b",
            _ => return Err(self.wrong(path, "it is no device")),
        };
        let expected = match node.kind.as_deref() {
            None | Some("") => letter,
            // Another name for a character device.
            Some("u") => "c",
            Some(kind) => kind,
        };
        let (major, minor) = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
        let numbers = (
            node.major.filter(|n| *n != 0).unwrap_or(major),
            match node.major {
                Some(1..) => node.minor.unwrap_or_default(),
                _ => minor,
            },
        );
        if (expected, numbers) != (letter, (major, minor)) {
            let why = format!("it is {letter} {major}:{minor}, not {expected} {}:{}", numbers.0, numbers.1);
            return Err(self.wrong(path, why));
        }
        Ok(real)
    }

    fn mount(&self, mount: &Mount) -> Result<HostMount, DeviceError> {
        if let Some(kind) = mount.kind.as_deref().filter(|kind| !matches!(*kind, "" | "bind" | "none")) {
            return Err(self.unsupported(format!("a mount of type `{kind}`")));
        }
        let known = |option: &&String| PLAIN_OPTIONS.contains(&option.as_str()) || option.as_str() == "ro";
        if let Some(option) = mount.options.iter().find(|option| !known(option)) {
            return Err(self.unsupported(format!("the mount option `{option}`")));
        }
        let path = &mount.host_path;
        let host = std::fs::canonicalize(path).map_err(|error| self.wrong(path, error))?;
        let is_directory = host.is_dir();
        let read_only = mount.options.iter().any(|option| option == "ro");
        Ok(HostMount { host, target: mount.container_path.clone(), is_directory, read_only })
    }
}
