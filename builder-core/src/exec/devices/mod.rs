//! `RUN --device`: devices of the host in a step, by the Container Device Interface (CDI).
//!
//! ```text
//! /etc/cdi/*.json *.yaml  --spec, registry-->  vendor.com/class=name -> edits
//! RUN --device=NAME  +  --allow device[=NAME]  --permission-->  devices that the step gets
//! their edits  --edits-->  nodes, mounts, variables and groups of the command
//! ```
//!
//! Nodes and mounts are bind mounts of the host's own, which also works without root, and leave no trace in the layer;
//! neither do variables. A step's key holds the names that it asked for and nothing of the host.
//!
//! What a file wants beyond that (hooks, which are programs of the host that would run before the command) is refused.
//!
//! Whether devices are there and allowed is found out before the first step, also for steps that are cached.

use std::path::PathBuf;

use super::build::Build;
use super::options::Isolation;
use crate::error::BuildError;
use crate::plan::Run;
use crate::progress::{Event, Warning};

mod edits;
mod permission;
mod registry;
mod spec;
#[cfg(test)]
mod tests;

pub(crate) use edits::DeviceEdits;
pub(crate) use registry::Registry;

/// A step can't have a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DeviceError {
    /// A name that no device can have.
    #[error("`{name}` is no name of a device")]
    Name { name: String },
    /// An entitlement that can't be read.
    #[error("`device={value}` can't be allowed")]
    Allow { value: String },
    /// A required device is not there.
    #[error("the required device `{name}` is not there")]
    Missing { name: String, advice: String },
    /// Devices that are there and were not allowed.
    #[error("the step needs the entitlement `device` for {}, which was not granted", listed(.names))]
    NotAllowed { names: Vec<String> },
    /// A device takes what rbuild does not do.
    #[error("the device `{device}` takes {what}, by `{}`", .file.display())]
    Unsupported { device: String, file: PathBuf, what: String },
    /// The host is not as a file says.
    #[error("the device `{device}` takes `{path}` of this machine, by `{}`: {why}", .file.display())]
    Host { device: String, file: PathBuf, path: String, why: String },
}

impl DeviceError {
    /// What to do about it.
    fn help(&self) -> String {
        match self {
            Self::Name { .. } => "names are vendor.com/class=device, vendor.com/class=* or vendor.com/class".to_owned(),
            Self::Allow { .. } => "write --allow device, or --allow device=NAME[,alias=NAME]".to_owned(),
            Self::Missing { advice, .. } => {
                format!("{advice}; leave `required` out if the step can do without")
            }
            Self::NotAllowed { names } => {
                let flags: Vec<String> = names.iter().map(|name| format!("--allow device={name}")).collect();
                format!("allow it with {}, or all devices with --allow device", flags.join(" "))
            }
            Self::Unsupported { .. } => {
                "rbuild gives steps device nodes, mounts, variables and groups; build this step with BuildKit"
                    .to_owned()
            }
            Self::Host { .. } => "make the file anew with the vendor's tool".to_owned(),
        }
    }
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Build<'_> {
    /// Steps whose devices are not there, were not allowed, or can't be had.
    pub(crate) fn device_errors(&self) -> Vec<BuildError> {
        self.check_runs(|run| {
            if run.devices.is_empty() {
                return Ok(());
            }
            let granted = self.granted(run).map_err(|error| refusal(&error))?;
            if self.options.isolation == Isolation::Chroot && !granted.names.is_empty() {
                return Err(BuildError::plan(
                    "device-refused",
                    format!("{} can't be given to a step without namespaces", listed(&granted.names)),
                    "leave --isolation=chroot or --device out",
                    None,
                ));
            }
            for name in granted.missing {
                self.events.event(Event::Warning(Warning {
                    rule: String::new(),
                    message: format!("the device `{name}` is not there, so the step runs without it"),
                    help: self.devices().advice(),
                    span: None,
                }));
            }
            Ok(())
        })
    }

    /// What a command gets of its devices.
    pub(crate) fn device_edits(&self, run: &Run) -> Result<DeviceEdits, BuildError> {
        if run.devices.is_empty() {
            return Ok(DeviceEdits::default());
        }
        self.granted(run)
            .and_then(|granted| DeviceEdits::of(self.devices(), &granted.names))
            .map_err(|error| refusal(&error))
    }

    fn granted(&self, run: &Run) -> Result<permission::Granted, DeviceError> {
        let allowed = permission::Allowed::parse(&self.options.allow)?;
        permission::grant(self.devices(), &allowed, &run.devices)
    }
}

fn refusal(error: &DeviceError) -> BuildError {
    BuildError::plan("device-refused", error.to_string(), error.help(), None)
}
