//! Build arguments that say how to build. They need no ARG, and no command sees them.

use super::options::BuildOptions;
use crate::error::BuildError;

/// Asks for an index of one image, or forbids one.
pub(crate) const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// Asks for the folder `.git` of a context that is a repository, where its address does not say.
pub(crate) const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Asks for the cache in the image, as `--cache-to type=inline` does.
pub(crate) const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";

/// Reads a truth value, by the texts that Go's `strconv.ParseBool` takes; an empty one counts as none.
///
/// # Errors
/// When it is none. COMPAT(buildkit): some are not looked at there unless they are true.
pub(crate) fn truth(options: &BuildOptions, name: &str) -> Result<Option<bool>, BuildError> {
    match options.build_args.get(name).map(String::as_str) {
        None | Some("") => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(value) => Err(BuildError::usage(
            format!("the build argument {name} is `{value}`, which is no truth value"),
            "write true or false",
        )),
    }
}
