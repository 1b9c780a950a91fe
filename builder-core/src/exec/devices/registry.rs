//! The devices of this machine, from the CDI files of several folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_dockerfile::parse_bool;

use super::DeviceError;
use super::spec::{self, Edits, Format, Spec};

/// The largest file that is read: bytes. Those of graphics cards have some ten thousand.
const FILE_LIMIT: u64 = 4 << 20;

/// COMPAT(buildkit): a device with this annotation also goes by the annotation's value.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// COMPAT(buildkit): a device with this annotation needs no entitlement.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// A device that a file describes.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The file.
    pub(super) file: PathBuf,
    /// What it takes, together with what every device of its file takes.
    pub(super) edits: [Arc<Edits>; 2],
    /// Whether it may be used without being allowed.
    pub(super) auto_allow: bool,
    class: Option<String>,
}

/// All devices, by their full names.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    devices: BTreeMap<String, Known>,
    /// Files that could not be used, and names that several files have: what is wrong with each.
    faults: Vec<String>,
}

impl Registry {
    /// Reads the files of folders, of which a later one counts more. What is wrong with a file only matters where a
    /// device is not found.
    pub(crate) fn read(folders: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for folder in folders {
            let mut here = BTreeMap::new();
            let mut twice = BTreeSet::new();
            for file in files(folder) {
                match read_file(&file) {
                    Ok(spec) => add(&mut here, &mut twice, &Arc::from(file), spec),
                    Err(fault) => registry.faults.push(format!("`{}`: {fault}", file.display())),
                }
            }
            for name in &twice {
                registry.faults.push(format!("`{}`: several files have the device `{name}`", folder.display()));
                here.remove(name);
                registry.devices.remove(name);
            }
            registry.devices.extend(here);
        }
        registry
    }

    /// A device by its full name.
    pub(super) fn device(&self, name: &str) -> Option<&Known> {
        self.devices.get(name)
    }

    /// The full names that a name stands for: a device, all of a kind (`vendor.com/class=*`), the first of a kind
    /// (`vendor.com/class`), or those of a class that an annotation gives.
    ///
    /// # Errors
    /// When the name can't be one.
    pub(super) fn find(&self, name: &str) -> Result<Vec<&str>, DeviceError> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        if !spec::is_kind(kind) {
            return Err(DeviceError::Name { name: name.to_owned() });
        }
        let prefix = format!("{kind}=");
        let of_kind = || self.devices.iter().filter(|(name, _)| name.starts_with(&prefix));
        let names = |(name, _): (_, _)| String::as_str(name);
        Ok(match device {
            "" => of_kind().map(names).take(1).collect(),
            "*" => of_kind().map(names).collect(),
            _ => match self.devices.get_key_value(name) {
                Some(found) => vec![names(found)],
                None => of_kind().filter(|(_, known)| known.class.as_deref() == Some(device)).map(names).collect(),
            },
        })
    }

    /// Why a device may be missing: what there is, and what is wrong with files.
    pub(super) fn advice(&self) -> String {
        let mut text = match self.devices.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>() {
            names if names.is_empty() => "no CDI file describes a device".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        for fault in &self.faults {
            text.push_str("; ");
            text.push_str(fault);
        }
        text
    }
}

fn add(here: &mut BTreeMap<String, Known>, twice: &mut BTreeSet<String>, file: &Arc<Path>, spec: Spec) {
    let common = Arc::new(spec.container_edits);
    for device in spec.devices {
        let annotation = |name| device.annotations.get(name).or_else(|| spec.annotations.get(name));
        let known = Known {
            file: file.to_path_buf(),
            auto_allow: annotation(AUTO_ALLOW).is_some_and(|value| parse_bool(value) == Some(true)),
            class: annotation(CLASS).cloned(),
            edits: [Arc::clone(&common), Arc::new(device.container_edits.clone())],
        };
        let name = format!("{}={}", spec.kind, device.name);
        if here.insert(name.clone(), known).is_some() {
            twice.insert(name);
        }
    }
}

/// The CDI files of a folder, in the order of their names; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| format_of(path).is_some()).collect();
    files.sort();
    files
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "json" => Some(Format::Json),
        "yaml" | "yml" => Some(Format::Yaml),
        _ => None,
    }
}

fn read_file(path: &Path) -> Result<Spec, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let is_file = file.metadata().is_ok_and(|status| status.is_file());
    if !is_file {
        return Err("it is no regular file".to_owned());
    }
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(format!("it is larger than {FILE_LIMIT} bytes"));
    }
    spec::parse(&text, format_of(path).unwrap_or(Format::Json))
}
