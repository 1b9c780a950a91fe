//! `--cache-from` and `--cache-to`: `type=registry|local|inline` with attributes, or the name of a cache in a registry.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rbuild_core::exec::{CacheMode, CachePlace, CacheSource, CacheTarget};
use rbuild_core::layer::Compression;
use rbuild_core::reference::Reference;
use rbuild_dockerfile::parse_bool;

use super::{Environment, UsageError, absolute, csv};

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";

/// The longest time that can be asked for, in seconds.
const TIMEOUT_MAX: f64 = 86_400.0;

/// The attributes of one value, taken one by one, so that none is passed over.
struct Attributes<'a> {
    flag: &'static str,
    value: &'a str,
    left: BTreeMap<String, String>,
}

/// Reads all values of `--cache-from`.
pub(super) fn sources(values: &[String], environment: &Environment) -> Result<Vec<CacheSource>, UsageError> {
    values.iter().filter(|value| !value.is_empty()).map(|value| source(value, environment)).collect()
}

/// Reads all values of `--cache-to`.
pub(super) fn targets(values: &[String], environment: &Environment) -> Result<Vec<CacheTarget>, UsageError> {
    values.iter().filter(|value| !value.is_empty()).map(|value| target(value, environment)).collect()
}

fn source(value: &str, environment: &Environment) -> Result<CacheSource, UsageError> {
    let mut attributes = Attributes::read(FROM, value)?;
    let kind = attributes.kind()?;
    let place = match kind.as_str() {
        "registry" => attributes.registry()?,
        "local" => {
            let path = attributes.required("src", "DIR")?;
            let digest = attributes.take("digest").map(|text| text.parse()).transpose();
            CachePlace::Layout {
                path: absolute(Path::new(&path), environment),
                digest: digest.map_err(|error: rbuild_core::oci::DigestError| attributes.wrong(&error.to_string()))?,
                tag: attributes.tag()?,
            }
        }
        "inline" => {
            return Err(attributes
                .wrong("a cache in an image is read from where the image is")
                .hint("write `type=registry,ref=IMAGE`"));
        }
        other => return Err(attributes.unknown_kind(other, "registry and local")),
    };
    let source = CacheSource { timeout: attributes.timeout(CacheSource::TIMEOUT)?, place };
    attributes.end()?;
    Ok(source)
}

fn target(value: &str, environment: &Environment) -> Result<CacheTarget, UsageError> {
    let mut attributes = Attributes::read(TO, value)?;
    let kind = attributes.kind()?;
    let place = match kind.as_str() {
        "registry" => Some(attributes.registry()?),
        "local" => {
            let path = attributes.required("dest", "DIR")?;
            // What an earlier cache of the same tag had and this one has not is removed anyway.
            attributes.truth("reset", false)?;
            let path = absolute(Path::new(&path), environment);
            Some(CachePlace::Layout { path, tag: attributes.tag()?, digest: None })
        }
        "inline" => None,
        other => return Err(attributes.unknown_kind(other, "registry, local and inline")),
    };
    if let Some(CachePlace::Registry { reference, .. }) = &place
        && reference.digest().is_some()
    {
        return Err(attributes.wrong("a cache cannot be written under a digest").hint("name a tag"));
    }
    let mode = match attributes.take("mode").as_deref() {
        None | Some("min") => CacheMode::Min,
        Some("max") if place.is_none() => {
            return Err(attributes
                .wrong("an image has room for its own steps only")
                .hint("for `mode=max` write the cache to a registry or a folder"));
        }
        Some("max") => CacheMode::Max,
        Some(other) => return Err(attributes.wrong(&format!("`mode={other}` is neither min nor max"))),
    };
    for asked in ["oci-mediatypes", "image-manifest"] {
        if !attributes.truth(asked, true)? {
            let reason = format!("`{asked}=false` asks for a form of caches that rbuild does not write");
            return Err(attributes.wrong(&reason));
        }
    }
    if place.is_none() && attributes.left.contains_key("mounts") {
        return Err(attributes
            .wrong("an image has no room for cache mounts")
            .hint("write the cache to a registry or a folder"));
    }
    // Layers are in one compression always.
    attributes.truth("force-compression", false)?;
    let target = CacheTarget {
        place,
        mode,
        compression: attributes.compression()?,
        mounts: attributes.truth("mounts", false)?,
        ignore_errors: attributes.truth("ignore-error", true)?,
        timeout: attributes.timeout(CacheTarget::TIMEOUT)?,
    };
    attributes.end()?;
    Ok(target)
}

impl<'a> Attributes<'a> {
    fn read(flag: &'static str, value: &'a str) -> Result<Self, UsageError> {
        let mut left = BTreeMap::new();
        let fields = csv::fields(flag, value)?;
        if fields.iter().any(|field| field.contains('=')) {
            left.extend(csv::pairs(flag, value)?);
        } else if let [name] = &fields[..] {
            left.extend([("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), name.clone())]);
        } else {
            return Err(UsageError::value(flag, value, "it is one name of a registry only").hint("repeat the flag"));
        }
        Ok(Self { flag, value, left })
    }

    fn wrong(&self, reason: &str) -> UsageError {
        UsageError::value(self.flag, self.value, reason)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.left.remove(name).filter(|value| !value.is_empty())
    }

    fn kind(&mut self) -> Result<String, UsageError> {
        let kind = self.take("type");
        kind.ok_or_else(|| self.wrong("`type=` is missing").hint("write `type=registry,ref=NAME` or `type=local,…`"))
    }

    fn unknown_kind(&self, kind: &str, kinds: &str) -> UsageError {
        let known = ["gha", "s3", "azblob"].contains(&kind);
        let reason =
            if known { format!("rbuild keeps no caches in `{kind}`") } else { format!("`{kind}` is no kind of cache") };
        self.wrong(&reason).hint(format!("kinds are {kinds}; a registry or a folder that your CI keeps holds a cache"))
    }

    fn required(&mut self, name: &str, example: &str) -> Result<String, UsageError> {
        self.take(name).ok_or_else(|| self.wrong(&format!("`{name}={example}` is missing")))
    }

    fn registry(&mut self) -> Result<CachePlace, UsageError> {
        let name = self.required("ref", "NAME")?;
        let reference = Reference::parse(&name).map_err(|error| self.wrong(&error.to_string()))?;
        Ok(CachePlace::Registry { reference, insecure: self.truth("registry.insecure", false)? })
    }

    fn tag(&mut self) -> Result<String, UsageError> {
        let tag = self.take("tag").unwrap_or_else(|| "latest".to_owned());
        match Reference::parse(&format!("cache:{tag}")) {
            Ok(reference) if reference.tag() == Some(&tag) => Ok(tag),
            _ => Err(self.wrong(&format!("`{tag}` is no tag"))),
        }
    }

    fn truth(&mut self, name: &str, default: bool) -> Result<bool, UsageError> {
        let Some(text) = self.take(name) else { return Ok(default) };
        parse_bool(&text).ok_or_else(|| self.wrong(&format!("`{name}={text}` is neither true nor false")))
    }

    fn compression(&mut self) -> Result<Option<Compression>, UsageError> {
        let (name, level) = (self.take("compression"), self.take("compression-level"));
        if name.is_none() && level.is_some() {
            return Err(self.wrong("`compression-level=` needs `compression=`"));
        }
        let compression = name.map(|name| Compression::parse(&name, level.as_deref())).transpose();
        compression.map_err(|error| self.wrong(&error.to_string()))
    }

    /// Reads a number of seconds, also as `30s`, `500ms`, `10m` or `1h`.
    fn timeout(&mut self, default: Duration) -> Result<Duration, UsageError> {
        let Some(text) = self.take("timeout") else { return Ok(default) };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = [("ms", 0.001), ("s", 1.0), ("", 1.0), ("m", 60.0), ("h", 3600.0)]
            .into_iter()
            .find_map(|(name, seconds)| (name == unit).then_some(seconds));
        let seconds = number.parse::<f64>().ok().zip(unit).map(|(number, unit)| number * unit);
        match seconds.filter(|seconds| *seconds > 0.0 && *seconds <= TIMEOUT_MAX) {
            Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
            None => Err(self.wrong(&format!("`timeout={text}` is no time up to a day")).hint("write `30s` or `10m`")),
        }
    }

    fn end(&self) -> Result<(), UsageError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.wrong(&format!("there is no attribute `{name}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(value: &str) -> Result<CacheSource, UsageError> {
        source(value, &Environment::of(&[]))
    }

    fn to(value: &str) -> Result<CacheTarget, UsageError> {
        target(value, &Environment::of(&[]))
    }

    fn registry(name: &str) -> CachePlace {
        CachePlace::Registry { reference: Reference::parse(name).unwrap(), insecure: false }
    }

    #[test]
    fn places_are_read() {
        assert_eq!(from("example.com/app:cache").unwrap(), CacheSource::new(registry("example.com/app:cache")));
        assert_eq!(from("type=registry,ref=a/b").unwrap().place, registry("a/b"));
        let local = from("type=local,src=cache,tag=v1,timeout=1.5m").unwrap();
        let layout = |tag: &str| CachePlace::Layout { path: "/work/cache".into(), tag: tag.into(), digest: None };
        assert_eq!((local.place, local.timeout), (layout("v1"), Duration::from_secs(90)));
        let target = to("type=local,dest=cache,mode=max,compression=zstd,ignore-error=false").unwrap();
        assert_eq!((target.place, target.mode, target.ignore_errors), (Some(layout("latest")), CacheMode::Max, false));
        assert_eq!(target.compression, Compression::parse("zstd", None).ok());
        assert_eq!(to("a/b:c").unwrap(), CacheTarget::new(Some(registry("a/b:c"))));
        assert_eq!(to("type=inline").unwrap(), CacheTarget::new(None));
        for unit in ["500ms", "30", "30s", "2h"] {
            assert!(to(&format!("type=inline,timeout={unit}")).is_ok(), "{unit}");
        }
        assert!(sources(&[String::new()], &Environment::of(&[])).unwrap().is_empty());
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for (error, reason) in [
            (from("type=gha").unwrap_err(), "rbuild keeps no caches in `gha`"),
            (from("type=s3,bucket=x").unwrap_err(), "rbuild keeps no caches in `s3`"),
            (from("type=disk").unwrap_err(), "`disk` is no kind of cache"),
            (from("type=inline").unwrap_err(), "where the image is"),
            (from("src=x").unwrap_err(), "`type=` is missing"),
            (from("type=local").unwrap_err(), "`src=DIR` is missing"),
            (from("type=local,src=x,digest=sha256:1").unwrap_err(), "is not a digest"),
            (from("type=local,src=x,tag=a/b").unwrap_err(), "`a/b` is no tag"),
            (from("type=registry").unwrap_err(), "`ref=NAME` is missing"),
            (from("type=registry,ref=A B").unwrap_err(), "A B"),
            (from("type=registry,ref=a,mode=max").unwrap_err(), "no attribute `mode`"),
            (from("type=registry,ref=a,timeout=soon").unwrap_err(), "no time up to a day"),
            (from("type=registry,ref=a,timeout=-1s").unwrap_err(), "no time up to a day"),
            (from("a,b").unwrap_err(), "one name of a registry only"),
            (to("type=azblob").unwrap_err(), "rbuild keeps no caches in `azblob`"),
            (to("type=inline,mode=max").unwrap_err(), "its own steps only"),
            (to("type=inline,mounts=true").unwrap_err(), "no room for cache mounts"),
            (to("type=local,dest=x,mode=all").unwrap_err(), "neither min nor max"),
            (to("type=local,dest=x,ignore-error=maybe").unwrap_err(), "neither true nor false"),
            (to("type=local,dest=x,compression=bzip2").unwrap_err(), "not a compression"),
            (to("type=local,dest=x,compression-level=3").unwrap_err(), "needs `compression=`"),
            (to("type=local,dest=x,image-manifest=false").unwrap_err(), "does not write"),
            (to(&format!("a@sha256:{}", "0".repeat(64))).unwrap_err(), "under a digest"),
        ] {
            assert!(error.message.contains(reason), "{}", error.message);
        }
    }
}
