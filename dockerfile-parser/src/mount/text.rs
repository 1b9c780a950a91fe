//! The small languages inside a mount: comma-separated values, sizes and paths.

use super::MountError;

/// Sizes such as `100m` or `1.5GiB`, powers of 1024.
pub(super) fn parse_size(value: &str) -> Option<i64> {
    let end = value.rfind(|ch: char| ch.is_ascii_digit() || ch == '.').map_or(0, |at| at + 1);
    let (number, unit) = value.split_at(end);
    let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let prefix =
        unit.strip_suffix("ib").filter(|prefix| !prefix.is_empty()).or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    // The nearest whole number below, as long as it fits.
    #[allow(clippy::cast_possible_truncation, reason = "checked against the largest value just before")]
    (bytes < 9.2e18).then_some(bytes as i64)
}

/// One line of comma-separated values; a field that begins with a quote ends with one and doubles it inside.
pub(crate) fn csv_fields(text: &str) -> Result<Vec<String>, MountError> {
    let error = || MountError::Csv(text.to_owned());
    if text.is_empty() {
        return Err(error());
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, behind) = match rest.split_once(',') {
                Some((field, behind)) => (field, Some(behind)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(error());
            }
            fields.push(field.to_owned());
            match behind {
                Some(behind) => rest = behind,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let (part, behind) = quoted.split_once('"').ok_or_else(error)?;
            field.push_str(part);
            match behind.strip_prefix('"') {
                Some(behind) => {
                    field.push('"');
                    quoted = behind;
                }
                None => {
                    quoted = behind;
                    break;
                }
            }
        }
        fields.push(field);
        match quoted.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if quoted.is_empty() => return Ok(fields),
            None => return Err(error()),
        }
    }
}

/// `/a//b/../c/` to `/a/c`.
pub(super) fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

pub(super) fn base_name(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}
