//! `RUN --mount=type=…,target=…`: the typed mounts.
//!
//! The text is a line of comma-separated values (a field may be in double quotes), each `key=value` or a lone key.
//! Every value is expanded by itself, after the line is cut, so a value with a comma stays one value; `from` alone
//! must hold no variable. Keys are checked in the order of writing: `required` and `size` only fit a `type` that
//! stands before them.

mod text;

pub(crate) use text::csv_fields;
use text::{base_name, clean_path, parse_size};

use crate::suggest::{did_you_mean, nearest};
use crate::truth::parse_bool;
use crate::word::WordError;

/// The kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MountType {
    /// Files of the build context, a stage or an image.
    #[default]
    Bind,
    /// A folder that outlives the build.
    Cache,
    /// A file system in memory.
    Tmpfs,
    /// A secret as a file or a variable.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

impl MountType {
    /// The name in `type=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Nobody else: another user gets a folder of its own.
    Private,
    /// One after the other.
    Locked,
}

/// One `--mount`, checked. Fields that were not given are `None` or empty; the methods give what counts instead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The kind.
    pub kind: MountType,
    /// `from`: a stage, named context or image.
    pub from: String,
    /// `source`: the path in `from`, or the id of a secret.
    pub source: String,
    /// `target`: relative ones count from the working directory.
    pub target: String,
    /// Whether the mount cannot be written to.
    pub read_only: bool,
    /// `required`, of secret and ssh.
    pub required: bool,
    /// `size` of a tmpfs in bytes, 0 for no limit.
    pub size_bytes: i64,
    /// `id`.
    pub id: String,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// `env`: the variable that gets the secret.
    pub env: Option<String>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

impl Mount {
    /// The id of a cache (its cleaned target if none is given), a secret (`id`, `source`, or the last part of the
    /// target) or an SSH agent (`default`).
    pub fn effective_id(&self) -> String {
        match self.kind {
            MountType::Cache if self.id.is_empty() => clean_path(&self.target),
            MountType::Ssh if self.id.is_empty() => "default".to_owned(),
            MountType::Secret if !self.id.is_empty() => self.id.clone(),
            MountType::Secret if !self.source.is_empty() => self.source.clone(),
            MountType::Secret => base_name(&self.target),
            _ => self.id.clone(),
        }
    }

    /// Where a secret's file lies: the target, or `/run/secrets/` and the last part of the id; `None` if it is only
    /// a variable.
    pub fn secret_target(&self) -> Option<String> {
        if !self.target.is_empty() {
            return Some(self.target.clone());
        }
        self.env.is_none().then(|| format!("/run/secrets/{}", base_name(&self.effective_id())))
    }
}

/// A `--mount` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The line of comma-separated values is malformed.
    #[error("failed to parse csv mounts `{0}`")]
    Csv(String),
    /// A value cannot be expanded.
    #[error("cannot expand `--mount`")]
    Expand(#[from] WordError),
    /// `from` with a variable.
    #[error("'from' of `--mount` doesn't support variable expansion, define alias stage instead: `{0}`")]
    FromVariable(String),
    /// A lone word that needs a value.
    #[error("invalid field '{0}' must be a key=value pair")]
    NotAPair(String),
    /// A key that is not known at all, or not for this kind of mount.
    #[error("unexpected key '{key}' in `--mount={text}`{}", hint(.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole field.
        text: String,
        /// A known key that may be meant.
        suggestion: Option<&'static str>,
    },
    /// A key of another kind of mount.
    #[error("unexpected key '{key}' for mount type '{}'", .kind.name())]
    WrongKind {
        /// The key.
        key: String,
        /// The kind of this mount.
        kind: MountType,
    },
    /// A kind that is not known.
    #[error("unsupported mount type `{text}`{}", hint(.suggestion))]
    UnknownType {
        /// The kind as given.
        text: String,
        /// A known one that may be meant.
        suggestion: Option<&'static str>,
    },
    /// A sharing mode that is not known.
    #[error("unsupported sharing value `{text}`{}", hint(.suggestion))]
    UnknownSharing {
        /// The mode as given.
        text: String,
        /// A known one that may be meant.
        suggestion: Option<&'static str>,
    },
    /// A value that is no number, truth value or size.
    #[error("invalid value for {key}: `{value}`")]
    InvalidValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A combination that makes no sense.
    #[error("{0}")]
    Conflict(String),
}

fn hint(suggestion: &Option<&'static str>) -> String {
    suggestion.map(|name| format!(" ({})", did_you_mean(name))).unwrap_or_default()
}

const TYPES: [&str; 5] = ["bind", "cache", "secret", "ssh", "tmpfs"];
const SHARINGS: [&str; 3] = ["locked", "private", "shared"];
const KEYS: [&str; 20] = [
    "destination",
    "dst",
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "ro",
    "rw",
    "sharing",
    "size",
    "source",
    "src",
    "target",
    "type",
    "uid",
    "",
];

/// Checks what can be checked before variables are known: the commas and quotes, and `from`.
///
/// # Errors
///
/// Fails if the line is malformed or `from` holds a variable.
pub fn check_mount_text(text: &str) -> Result<(), MountError> {
    for field in csv_fields(text)? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
            && value.char_indices().any(|(at, ch)| ch == '$' && at + 1 < value.len())
        {
            return Err(MountError::FromVariable(value.to_owned()));
        }
    }
    Ok(())
}

/// Reads a mount whose text holds no variables, or where they are to stay as they are.
///
/// # Errors
///
/// As [`parse_mount`].
pub fn parse_mount_constant(text: &str) -> Result<Mount, MountError> {
    parse_mount(text, &mut |value| Ok(value.to_owned()))
}

/// Reads a mount; `expand` is called for every value.
///
/// # Errors
///
/// Fails as BuildKit does: malformed line, unknown keys and values, and combinations that make no sense.
pub fn parse_mount(text: &str, expand: &mut dyn FnMut(&str) -> Result<String, WordError>) -> Result<Mount, MountError> {
    check_mount_text(text)?;
    let mut mount = Mount::default();
    let mut writable = None;
    for field in csv_fields(text)? {
        match field.split_once('=') {
            Some((key, value)) => {
                let value = expand(value)?;
                read_pair(&mut mount, &key.to_lowercase(), &value, &field, &mut writable)?;
            }
            None => read_flag(&mut mount, &field, &mut writable)?,
        }
    }
    check(&mut mount, writable)?;
    Ok(mount)
}

fn read_flag(mount: &mut Mount, field: &str, writable: &mut Option<bool>) -> Result<(), MountError> {
    match field.to_lowercase().as_str() {
        "readonly" | "ro" => *writable = Some(false),
        "readwrite" | "rw" => *writable = Some(true),
        "required" if matches!(mount.kind, MountType::Secret | MountType::Ssh) => mount.required = true,
        "required" => return Err(MountError::WrongKind { key: "required".to_owned(), kind: mount.kind }),
        _ => return Err(MountError::NotAPair(field.to_owned())),
    }
    Ok(())
}

fn read_pair(
    mount: &mut Mount,
    key: &str,
    value: &str,
    field: &str,
    writable: &mut Option<bool>,
) -> Result<(), MountError> {
    let invalid = || MountError::InvalidValue { key: key.to_owned(), value: value.to_owned() };
    let truth = || parse_bool(value).ok_or_else(invalid);
    let number = |radix| {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        u32::from_str_radix(value, radix).ok().filter(|_| digits).ok_or_else(invalid)
    };
    match key {
        "type" => mount.kind = parse_type(value)?,
        "from" => value.clone_into(&mut mount.from),
        "source" | "src" => value.clone_into(&mut mount.source),
        "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
        "readonly" | "ro" => *writable = Some(!truth()?),
        "readwrite" | "rw" => *writable = Some(truth()?),
        "required" if matches!(mount.kind, MountType::Secret | MountType::Ssh) => mount.required = truth()?,
        "size" if mount.kind == MountType::Tmpfs => mount.size_bytes = parse_size(value).ok_or_else(invalid)?,
        "required" | "size" => return Err(MountError::WrongKind { key: key.to_owned(), kind: mount.kind }),
        "id" => value.clone_into(&mut mount.id),
        "sharing" => mount.sharing = Some(parse_sharing(value)?),
        "env" => mount.env = Some(value.to_owned()),
        "mode" => mount.mode = Some(number(8)?),
        "uid" => mount.uid = Some(number(10)?),
        "gid" => mount.gid = Some(number(10)?),
        _ => {
            let suggestion = nearest(key, KEYS);
            return Err(MountError::UnknownKey { key: key.to_owned(), text: field.to_owned(), suggestion });
        }
    }
    Ok(())
}

fn parse_type(value: &str) -> Result<MountType, MountError> {
    Ok(match value.to_lowercase().as_str() {
        "bind" => MountType::Bind,
        "cache" => MountType::Cache,
        "tmpfs" => MountType::Tmpfs,
        "secret" => MountType::Secret,
        "ssh" => MountType::Ssh,
        _ => return Err(MountError::UnknownType { text: value.to_owned(), suggestion: nearest(value, TYPES) }),
    })
}

fn parse_sharing(value: &str) -> Result<Sharing, MountError> {
    Ok(match value.to_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => return Err(MountError::UnknownSharing { text: value.to_owned(), suggestion: nearest(value, SHARINGS) }),
    })
}

fn check(mount: &mut Mount, writable: Option<bool>) -> Result<(), MountError> {
    let kind = mount.kind;
    let conflict = |text: String| Err(MountError::Conflict(text));
    if matches!(kind, MountType::Bind | MountType::Tmpfs) {
        for (key, given) in [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)] {
            if given.is_some() {
                return conflict(format!("{key} not allowed for `{}` type mounts", kind.name()));
            }
        }
    }
    mount.read_only = !writable.unwrap_or(matches!(kind, MountType::Cache | MountType::Tmpfs));
    if kind == MountType::Secret {
        if !mount.from.is_empty() {
            return conflict("secret mount should not have a from".to_owned());
        }
        if mount.sharing.is_some() {
            return conflict("secret mount should not define sharing".to_owned());
        }
        if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
            return conflict("invalid secret mount: one of id, source and target is required".to_owned());
        }
        if !mount.source.is_empty() && !mount.id.is_empty() {
            return conflict("both source and id can't be set for a secret mount".to_owned());
        }
    }
    if mount.sharing.is_some() && kind != MountType::Cache {
        return conflict(format!("invalid cache sharing set for {} mount", kind.name()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
