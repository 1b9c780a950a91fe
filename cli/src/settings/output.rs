//! `-o/--output`, and the flags that are short for one: `--push`, `--load`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_dockerfile::parse_bool;

use super::{Environment, UsageError, absolute, csv};

const FLAG: &str = "--output";

/// What form the result takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// An OCI image layout.
    Oci,
    /// An archive for `docker load`.
    Docker,
    /// The files of the image, in a folder.
    Local,
    /// The files of the image, as a tar archive.
    Tar,
    /// The image in rbuild's own store; pushed where asked.
    Image,
    /// Nothing but the cache.
    CacheOnly,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A file, or a folder, from the root of the file system.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// One result of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its form.
    pub(crate) kind: OutputKind,
    /// Where it goes; `None` for the store, or for a running Docker.
    pub(crate) destination: Option<Destination>,
    /// Whether it goes to a registry.
    pub(crate) push: bool,
    /// Whether an archive is written; otherwise a folder.
    pub(crate) archive: bool,
    /// Everything else that was said, keys in lower case.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Output {
    fn of(kind: OutputKind, destination: Option<Destination>) -> Self {
        Self { kind, destination, push: false, archive: kind != OutputKind::Local, attributes: BTreeMap::new() }
    }

    fn reads(value: &str, environment: &Environment) -> Result<Self, UsageError> {
        let fields = csv::fields(FLAG, value)?;
        if fields == [value] && !value.starts_with("type=") {
            return Ok(match value {
                "-" => Self::of(OutputKind::Tar, Some(Destination::Stdout)),
                _ => Self::of(OutputKind::Local, Some(Destination::Path(absolute(value.as_ref(), environment)))),
            });
        }
        let mut attributes: BTreeMap<_, _> = csv::pairs(FLAG, value)?.into_iter().collect();
        let name = attributes.remove("type").ok_or_else(|| {
            UsageError::value(FLAG, value, "`type=` is missing")
                .hint("types are oci, docker, local, tar, image, registry and cacheonly")
        })?;
        let (kind, mut push) = match name.as_str() {
            "oci" => (OutputKind::Oci, false),
            "docker" => (OutputKind::Docker, false),
            "local" => (OutputKind::Local, false),
            "tar" => (OutputKind::Tar, false),
            "image" => (OutputKind::Image, false),
            "registry" => (OutputKind::Image, true),
            "cacheonly" => (OutputKind::CacheOnly, false),
            _ => {
                return Err(UsageError::value(FLAG, value, &format!("unknown type `{name}`"))
                    .hint("types are oci, docker, local, tar, image, registry and cacheonly"));
            }
        };
        push |= truth(&mut attributes, "push", false, value)?;
        let archive = truth(&mut attributes, "tar", kind != OutputKind::Local, value)?;
        let destination = match attributes.remove("dest").as_deref() {
            None | Some("") => None,
            Some("-") => Some(Destination::Stdout),
            Some(path) => Some(Destination::Path(absolute(path.as_ref(), environment))),
        };
        Self { kind, destination, push, archive, attributes }.checked(value, environment)
    }

    /// Refuses a destination that this form cannot have, and fills in the one that is meant where none is given.
    fn checked(mut self, value: &str, environment: &Environment) -> Result<Self, UsageError> {
        let wrong = |reason: &str| Err(UsageError::value(FLAG, value, reason));
        match (self.kind, &self.destination) {
            (OutputKind::Local, None) => return wrong("`dest=` is missing: the folder to write into"),
            (OutputKind::Local, Some(Destination::Stdout)) => {
                return wrong("a folder cannot go to standard output; `type=tar` can");
            }
            (OutputKind::Oci | OutputKind::Docker, None | Some(Destination::Stdout)) if !self.archive => {
                return wrong("`tar=false` needs `dest=`: the folder to write into");
            }
            (OutputKind::Oci | OutputKind::Tar, None) => self.destination = Some(Destination::Stdout),
            (OutputKind::Image | OutputKind::CacheOnly, Some(_)) => return wrong("this type takes no `dest=`"),
            _ => {}
        }
        if self.push && self.kind != OutputKind::Image {
            return wrong("only `type=image` can be pushed");
        }
        if self.destination == Some(Destination::Stdout) && environment.stdout_is_terminal {
            return Err(UsageError::value(
                FLAG,
                value,
                "standard output is a terminal, which is no place for an archive",
            )
            .hint("name a file with `dest=FILE`, or redirect standard output"));
        }
        Ok(self)
    }
}

fn truth(attributes: &mut BTreeMap<String, String>, key: &str, default: bool, value: &str) -> Result<bool, UsageError> {
    let Some(text) = attributes.remove(key) else { return Ok(default) };
    parse_bool(&text)
        .ok_or_else(|| UsageError::value(FLAG, value, &format!("`{key}={text}` is neither true nor false")))
}

/// Reads all `-o` flags, with `--push` and `--load` applied.
///
/// # Errors
/// An unknown type, a missing or impossible destination, two results for standard output, flags that
/// contradict each other.
pub(super) fn outputs(
    values: &[String],
    push: bool,
    load: bool,
    environment: &Environment,
) -> Result<Vec<Output>, UsageError> {
    let mut outputs = Vec::new();
    for value in values.iter().filter(|value| !value.is_empty()) {
        outputs.push(Output::reads(value, environment)?);
    }
    if push {
        match outputs.iter_mut().find(|output| output.kind == OutputKind::Image) {
            Some(output) => output.push = true,
            None => outputs.push(Output { push: true, ..Output::of(OutputKind::Image, None) }),
        }
    }
    if load && !outputs.iter().any(|output| output.kind == OutputKind::Docker) {
        outputs.push(Output::of(OutputKind::Docker, None));
    }
    if outputs.iter().filter(|output| output.destination == Some(Destination::Stdout)).count() > 1 {
        return Err(
            UsageError::new("two outputs cannot both go to standard output").hint("give one of them `dest=FILE`")
        );
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &str) -> Result<Output, UsageError> {
        outputs(&[value.to_owned()], false, false, &Environment::of(&[])).map(|mut all| all.remove(0))
    }

    fn path(text: &str) -> Option<Destination> {
        Some(Destination::Path(text.into()))
    }

    #[test]
    fn values_are_read() {
        for (value, kind, destination, archive) in [
            ("out", OutputKind::Local, path("/work/out"), false),
            ("-", OutputKind::Tar, Some(Destination::Stdout), true),
            ("type=oci,dest=/i.tar", OutputKind::Oci, path("/i.tar"), true),
            ("type=oci,dest=i,tar=false", OutputKind::Oci, path("/work/i"), false),
            ("type=oci", OutputKind::Oci, Some(Destination::Stdout), true),
            ("type=docker", OutputKind::Docker, None, true),
            ("type=docker,dest=-", OutputKind::Docker, Some(Destination::Stdout), true),
            ("type=local,\"dest=a,b\"", OutputKind::Local, path("/work/a,b"), false),
            ("type=image", OutputKind::Image, None, true),
        ] {
            let output = one(value).unwrap();
            assert_eq!((output.kind, output.destination, output.archive), (kind, destination, archive), "{value}");
        }
        assert!(one("type=registry").unwrap().push);
        assert!(one("type=image,push=true").unwrap().push);
        assert_eq!(one("type=oci,dest=a,Compression=zstd").unwrap().attributes["compression"], "zstd");
    }

    #[test]
    fn impossible_values_are_refused() {
        for (value, reason) in [
            ("dest=a,tar=false", "`type=` is missing"),
            ("type=zip,dest=a", "unknown type `zip`"),
            ("type=local", "`dest=` is missing"),
            ("type=local,dest=-", "standard output"),
            ("type=oci,tar=false", "needs `dest=`"),
            ("type=oci,tar=maybe,dest=a", "neither true nor false"),
            ("type=tar,push=true,dest=a", "only `type=image`"),
            ("type=oci,dest", "no `key=value` pair"),
        ] {
            let error = one(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{value}: {error}");
        }
    }

    #[test]
    fn archives_do_not_go_to_a_terminal() {
        let mut environment = Environment::of(&[]);
        environment.stdout_is_terminal = true;
        assert!(outputs(&["type=oci".to_owned()], false, false, &environment).is_err());
    }

    #[test]
    fn short_flags_are_outputs() {
        let environment = Environment::of(&[]);
        let pushed = outputs(&[], true, false, &environment).unwrap();
        assert!(pushed[0].push && pushed[0].kind == OutputKind::Image);
        let loaded = outputs(&["type=oci,dest=a".to_owned()], false, true, &environment).unwrap();
        assert_eq!(loaded[1].kind, OutputKind::Docker);
        let twice = ["type=oci".to_owned(), "-".to_owned()];
        assert!(outputs(&twice, false, false, &environment).is_err());
    }
}
