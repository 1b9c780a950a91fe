//! Build arguments that say how to build. They need no ARG, and no command sees them.

use rbuild_dockerfile::parse_bool;

use super::options::BuildOptions;
use crate::error::BuildError;

/// Asks for an index of one image, or forbids one.
pub(crate) const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// Asks for the folder `.git` of a context that is a repository, where its address does not say.
pub(crate) const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Asks for the cache in the image, as `--cache-to type=inline` does.
pub(crate) const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";

/// Reads a truth value, as [`parse_bool`] does; an empty one counts as none.
///
/// # Errors
/// When it is none. COMPAT(buildkit): some are not looked at there unless they are true.
pub(crate) fn truth(options: &BuildOptions, name: &str) -> Result<Option<bool>, BuildError> {
    let Some(value) = options.build_args.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    parse_bool(value).map(Some).ok_or_else(|| {
        BuildError::usage(
            format!("the build argument {name} is `{value}`, which is no truth value"),
            "write true or false",
        )
    })
}
