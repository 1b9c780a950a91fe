//! The names of inputs, as far as explanations tell them apart.

/// The layers of the image that the stage starts from.
pub(crate) const BASE: &str = "the base image";

/// The layers that the steps before made.
pub(crate) const EARLIER_STEP: &str = "the result of an earlier step";

/// What stands for no layers at all.
pub(crate) const NO_LAYERS: &str = "none";

/// The files that are copied, all in one digest.
pub(crate) const FILES: &str = "files";

/// A source of a copy, as its instruction names it.
pub(crate) const SOURCE: &str = "source";

/// Followed by a target: what a mount shows, in one digest.
pub(crate) const MOUNTED_FILES: &str = "mounted files";

const HIDDEN: &str = "hidden:";

/// Whether an input is read off the instruction's own text.
pub(super) fn is_text(name: &str) -> bool {
    matches!(name, "instruction" | "command" | SOURCE | "destination" | "directory")
        || name.starts_with("--")
        || name.starts_with("heredoc ")
        || name.starts_with("device ")
}

/// Whether the values of a variable are not to be shown.
pub(super) fn is_hidden(name: &str) -> bool {
    rbuild_dockerfile::lint::names_a_secret(name)
}

pub(super) fn is_hidden_value(value: &str) -> bool {
    value.starts_with(HIDDEN)
}

/// The value of a variable as records have it: a digest where it is not to be shown.
pub(crate) fn recorded(name: &str, value: &str) -> String {
    if is_hidden(name) { format!("{HIDDEN}{}", blake3::hash(value.as_bytes()).to_hex()) } else { value.to_owned() }
}
