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

/// Enters it. Must be called before any thread exists.
///
/// What cannot be had is given back as a failure where nothing has changed: a build without RUN steps needs no
/// namespace, so the failure is only told when a step asks for one.
///
/// # Errors
/// When the process is half-way in and must end.
pub(super) fn enter(environment: &Environment) -> Result<Option<Failure>, Failure> {
    match userns::enter(&search_path(environment)) {
        Ok(Entered::Root { .. } | Entered::UserNamespace { .. }) => Ok(None),
        Err(error) => {
            let failure = Failure::of(Kind::Environment, &error)
                .hint(error.hint().unwrap_or_default())
                .hint("`rbuild doctor` shows what this machine can do");
            match error {
                UserNamespaceError::Map { .. } | UserNamespaceError::Call { .. } => Err(failure),
                _ => Ok(Some(failure)),
            }
        }
    }
}
