//! Annotations: `--annotation`, and the attributes of `--output` that mean the same.
//!
//! ```text
//! --annotation [LEVEL[PLATFORM],…:]NAME=VALUE
//! --output     type=…,annotation[-LEVEL][PLATFORM].NAME=VALUE      PLATFORM in square brackets
//! ```

use rbuild_core::image::{Annotation, AnnotationLevel};
use rbuild_core::oci::Platform;

use super::UsageError;
use super::output::Output;

const FLAG: &str = "--annotation";

/// How attributes of outputs begin that are annotations.
const ATTRIBUTE: &str = "annotation";

/// Reads all annotations of a build, those of flags behind those of outputs.
///
/// # Errors
/// An annotation without a value, of an unknown level, or for what is no platform.
pub(super) fn annotations(flags: &[String], outputs: &[Output]) -> Result<Vec<Annotation>, UsageError> {
    let mut all = Vec::new();
    for output in outputs {
        for (key, value) in &output.attributes {
            let wrong = |reason: &str| UsageError::value("--output", &format!("{key}={value}"), reason);
            all.extend(of_attribute(key, value).transpose().map_err(|reason| wrong(&reason))?);
        }
    }
    for flag in flags.iter().filter(|flag| !flag.is_empty()) {
        let wrong = |reason: &str| UsageError::value(FLAG, flag, reason).hint("write `[TYPE[PLATFORM]:]NAME=VALUE`");
        let (key, value) = flag.split_once('=').ok_or_else(|| wrong("`=` is missing"))?;
        let (levels, name) = key.split_once(':').unwrap_or(("manifest", key));
        if name.is_empty() {
            return Err(wrong("the name is missing"));
        }
        for level in levels.split(',') {
            let (level, platform) = level_and_platform(level).map_err(|reason| wrong(&reason))?;
            all.push(Annotation { level, platform, name: name.to_owned(), value: value.to_owned() });
        }
    }
    Ok(all)
}

/// Whether an attribute of an output is an annotation.
pub(super) fn is_annotation(key: &str) -> bool {
    key.strip_prefix(ATTRIBUTE).is_some_and(|rest| rest.starts_with(['-', '[', '.']))
}

fn of_attribute(key: &str, value: &str) -> Option<Result<Annotation, String>> {
    if !is_annotation(key) {
        return None;
    }
    // A platform may hold dots, so the name begins behind the bracket.
    let from = key.find(']').unwrap_or_default();
    let Some(dot) = key[from..].find('.').map(|dot| from + dot) else {
        return Some(Err("`.NAME` is missing behind `annotation`".to_owned()));
    };
    let level = key[ATTRIBUTE.len()..dot].strip_prefix('-').unwrap_or(&key[ATTRIBUTE.len()..dot]);
    let level = if level.is_empty() || level.starts_with('[') { format!("manifest{level}") } else { level.to_owned() };
    Some(level_and_platform(&level).map(|(level, platform)| Annotation {
        level,
        platform,
        name: key[dot + 1..].to_owned(),
        value: value.to_owned(),
    }))
}

/// Reads `LEVEL` or `LEVEL[PLATFORM]`; an error is the reason.
fn level_and_platform(text: &str) -> Result<(AnnotationLevel, Option<Platform>), String> {
    let (name, platform) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, platform)) => (name, Some(platform)),
        None => (text, None),
    };
    let level = AnnotationLevel::parse(name).ok_or_else(|| {
        let known: Vec<_> = AnnotationLevel::NAMES.iter().map(|(name, _)| *name).collect();
        format!("unknown type `{name}`, known are {}", known.join(", "))
    })?;
    let platform = platform.map(str::parse::<Platform>).transpose().map_err(|error| error.to_string())?;
    Ok((level, platform))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str]) -> Result<Vec<String>, String> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        annotations(&flags, &[]).map(|all| all.iter().map(shown).collect()).map_err(|error| error.message)
    }

    fn shown(annotation: &Annotation) -> String {
        let platform = annotation.platform.as_ref().map(|platform| format!("[{platform}]")).unwrap_or_default();
        format!("{:?}{platform} {} {}", annotation.level, annotation.name, annotation.value)
    }

    #[test]
    fn flags_are_read() {
        for (flag, want) in [
            ("a=b=c", vec!["Manifest a b=c"]),
            ("a.b/c=", vec!["Manifest a.b/c "]),
            ("index,manifest[linux/arm64/v8]:a=b", vec!["Index a b", "Manifest[linux/arm64] a b"]),
            ("manifest-descriptor:a=b", vec!["ManifestDescriptor a b"]),
            ("index-descriptor:a=b:c", vec!["IndexDescriptor a b:c"]),
            ("", vec![]),
        ] {
            assert_eq!(read(&[flag]).unwrap(), want, "{flag}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (flag, reason) in [
            ("a", "`=` is missing"),
            ("layer:a=b", "unknown type `layer`"),
            (":a=b", "unknown type ``"),
            ("index:=b", "the name is missing"),
            ("manifest[linux/]:a=b", "is not a platform"),
        ] {
            let error = read(&[flag]).unwrap_err();
            assert!(error.contains(FLAG) && error.contains(reason), "{flag}: {error}");
        }
    }

    #[test]
    fn attributes_of_outputs_are_read() {
        for (key, want) in [
            ("annotation.a.b", Some("Manifest a.b v")),
            ("annotation-index.a", Some("Index a v")),
            ("annotation[linux/amd64].a", Some("Manifest[linux/amd64] a v")),
            ("annotation-manifest-descriptor[linux/arm/v7].a", Some("ManifestDescriptor[linux/arm/v7] a v")),
            ("annotations", None),
            ("name", None),
        ] {
            let found = of_attribute(key, "v").map(|annotation| shown(&annotation.unwrap()));
            assert_eq!(found.as_deref(), want, "{key}");
        }
        assert!(of_attribute("annotation-layer.a", "v").unwrap().is_err());
        assert!(of_attribute("annotation-index", "v").unwrap().is_err());
    }
}
