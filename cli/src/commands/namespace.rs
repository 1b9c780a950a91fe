//! The user namespace that rbuild works in when its user is not root.

use std::ffi::{OsStr, OsString};

use rbuild_core::sys::userns::{self, Entered, UserNamespaceError};

use crate::error::{Failure, Kind};
use crate::settings::Environment;

/// Where programs are looked for when PATH is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The folders to look for programs in, as in `PATH`.
pub(super) fn search_path(environment: &Environment) -> OsString {
    environment.os("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)).to_owned()
}

/// What became of it.
pub(super) struct Namespace {
    /// What was found, in words for `-v`.
    pub(super) note: String,
    /// Why there is none where one is needed.
    pub(super) refusal: Option<Failure>,
}

/// Enters it. Must be called before any thread exists.
///
/// What cannot be had is given back as a refusal where nothing has changed: a build without RUN steps needs no
/// namespace, so the refusal is only told when a step asks for one.
///
/// # Errors
/// When the process is half-way in and must end.
pub(super) fn enter(environment: &Environment) -> Result<Namespace, Failure> {
    let error = match userns::enter(&search_path(environment)) {
        Ok(entered) => return Ok(Namespace { note: describe(&entered), refusal: None }),
        Err(error) => error,
    };
    let failure = Failure::of(Kind::Environment, &error)
        .hint(error.hint().unwrap_or_default())
        .hint("`rbuild doctor` shows what this machine can do");
    match error {
        UserNamespaceError::Map { .. } | UserNamespaceError::Call { .. } => Err(failure),
        _ => Ok(Namespace { note: format!("isolation: none ({error})"), refusal: Some(failure) }),
    }
}

fn describe(entered: &Entered) -> String {
    match entered {
        Entered::Root { own_mounts: true } => "isolation: namespaces, as root".to_owned(),
        Entered::Root { own_mounts: false } => {
            "isolation: no namespaces, as root without the right to make them".to_owned()
        }
        Entered::UserNamespace { user_ids, group_ids } => {
            format!("isolation: namespaces, as an ordinary user with {user_ids} user and {group_ids} group ids")
        }
    }
}
