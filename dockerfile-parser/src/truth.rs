//! Truth values.

/// Reads a truth value by the texts that Docker's tools take (those of Go's `strconv.ParseBool`); `None` if it is
/// another text.
///
/// ```
/// use rbuild_dockerfile::parse_bool;
///
/// assert_eq!((parse_bool("T"), parse_bool("0"), parse_bool("yes")), (Some(true), Some(false), None));
/// ```
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
