//! `RUN --device=[name=]NAME[,required]`: a device by its CDI name.
//!
//! The text is a line of comma-separated values, as in `--mount`. NAME is `vendor.com/class=device`; what such a name
//! may be is for whoever looks devices up.

use crate::mount::csv_fields;
use crate::suggest::{did_you_mean, nearest};
use crate::truth::parse_bool;

/// A device that a RUN asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceRequest {
    /// Its CDI name, as written.
    pub name: String,
    /// Whether the step fails where there is no such device; otherwise it runs without.
    pub required: bool,
}

/// A `--device` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The line of comma-separated values is malformed.
    #[error("failed to parse csv devices `{0}`")]
    Csv(String),
    /// There is no name.
    #[error("`--device={0}` names no device")]
    NoName(String),
    /// There are two names.
    #[error("device name already set to `{0}`")]
    TwoNames(String),
    /// A lone word that needs a value.
    #[error("invalid field '{0}' must be a key=value pair")]
    NotAPair(String),
    /// A key that is not known.
    #[error("unexpected key '{key}' in '{field}'{}", .suggestion.map(|name| format!(" ({})", did_you_mean(name))).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole field.
        field: String,
        /// A known key that may be meant.
        suggestion: Option<&'static str>,
    },
    /// A value that is no truth value.
    #[error("invalid value for required: `{0}`")]
    InvalidValue(String),
}

/// Reads a `--device`.
///
/// # Errors
///
/// Fails as BuildKit does, and where there is no name.
pub fn parse_device(text: &str) -> Result<DeviceRequest, DeviceError> {
    let fields = csv_fields(text).map_err(|_| DeviceError::Csv(text.to_owned()))?;
    let mut device = DeviceRequest::default();
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = parse_bool(value).ok_or_else(|| DeviceError::InvalidValue(value.to_owned()))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => return Err(DeviceError::TwoNames(device.name)),
            ("name", Some(value)) => value.clone_into(&mut device.name),
            // The name itself has the form of a pair.
            (_, _) if device.name.is_empty() => device.name = field,
            (_, None) => return Err(DeviceError::NotAPair(field)),
            (_, Some(_)) => {
                let suggestion = nearest(&key, ["name", "required"]);
                return Err(DeviceError::UnknownKey { key, field, suggestion });
            }
        }
    }
    if device.name.is_empty() { Err(DeviceError::NoName(text.to_owned())) } else { Ok(device) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        for (text, name, required) in [
            ("vendor.com/class=a", "vendor.com/class=a", false),
            ("name=vendor.com/class=a", "vendor.com/class=a", false),
            ("vendor.com/class", "vendor.com/class", false),
            ("vendor.com/class=*,required", "vendor.com/class=*", true),
            ("Required=true,NAME=vendor.com/class=a", "vendor.com/class=a", true),
            ("vendor.com/class=a,required=0", "vendor.com/class=a", false),
        ] {
            assert_eq!(parse_device(text), Ok(DeviceRequest { name: name.to_owned(), required }), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, message) in [
            ("", "failed to parse csv devices ``"),
            ("required", "`--device=required` names no device"),
            ("a.b/c=d,name=a.b/c=e", "device name already set to `a.b/c=d`"),
            ("a.b/c=d,optional", "invalid field 'optional' must be a key=value pair"),
            ("a.b/c=d,requird=1", "unexpected key 'requird' in 'requird=1' (did you mean `required`?)"),
            ("a.b/c=d,required=maybe", "invalid value for required: `maybe`"),
        ] {
            assert_eq!(parse_device(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
