//! Which devices a build may use: `--allow device` and `--allow device=NAME[,alias=NAME]`.

use std::collections::{BTreeMap, BTreeSet};

use super::{DeviceError, Registry};

/// What was allowed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    /// All devices.
    all: bool,
    /// Names, as they were given.
    names: BTreeSet<String>,
    /// Devices by the names that the Dockerfile has for them.
    aliases: BTreeMap<String, String>,
}

impl Allowed {
    /// Picks out of the entitlements those for devices.
    ///
    /// # Errors
    /// When one has something else than a name and an alias.
    pub(super) fn parse(entitlements: &BTreeSet<String>) -> Result<Self, DeviceError> {
        let mut allowed = Self::default();
        for entitlement in entitlements {
            if entitlement == "device" {
                allowed.all = true;
                continue;
            }
            let Some(value) = entitlement.strip_prefix("device=") else { continue };
            let wrong = || DeviceError::Allow { value: value.to_owned() };
            let mut parts = value.split(',');
            let name = parts.next().filter(|name| !name.is_empty()).ok_or_else(wrong)?;
            let alias = parts.next().map(|part| part.strip_prefix("alias=").ok_or_else(wrong)).transpose()?;
            if parts.next().is_some() {
                return Err(wrong());
            }
            match alias {
                Some(alias) => drop(allowed.aliases.insert(alias.to_owned(), name.to_owned())),
                None => drop(allowed.names.insert(name.to_owned())),
            }
        }
        Ok(allowed)
    }
}

/// What a step's requests come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Full names, each once, in the order of the requests.
    pub(super) names: Vec<String>,
    /// Requested names that nothing has, and that the step can do without.
    pub(super) missing: Vec<String>,
}

/// Looks a step's requests up: names, and whether each is required.
///
/// # Errors
/// When a name can't be one, a required device is not there, or one that is there was not allowed.
pub(super) fn grant(
    registry: &Registry,
    allowed: &Allowed,
    requests: &[(String, bool)],
) -> Result<Granted, DeviceError> {
    let mut permitted = BTreeSet::new();
    for name in &allowed.names {
        permitted.extend(registry.find(name)?);
    }
    let mut granted = Granted::default();
    let mut refused = Vec::new();
    for (name, required) in requests {
        let alias = allowed.aliases.get(name);
        let found = registry.find(alias.unwrap_or(name))?;
        if found.is_empty() {
            if *required {
                return Err(DeviceError::Missing { name: name.clone(), advice: registry.advice() });
            }
            granted.missing.push(name.clone());
        }
        for device in found {
            let free = registry.device(device).is_some_and(|known| known.auto_allow);
            if !(allowed.all || free || alias.is_some() || permitted.contains(device)) {
                refused.push(device.to_owned());
            } else if !granted.names.iter().any(|name| name == device) {
                granted.names.push(device.to_owned());
            }
        }
    }
    if refused.is_empty() { Ok(granted) } else { Err(DeviceError::NotAllowed { names: refused }) }
}
