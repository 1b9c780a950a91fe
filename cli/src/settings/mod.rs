//! The command line as meant: every value checked and read, the environment and defaults applied.
//!
//! Environment variables and the clock are read once ([`Environment::of_process`]) and handed on as values.

mod annotation;
mod build;
mod cache;
mod call;
mod context;
mod csv;
mod environment;
mod output;
mod prune;
mod values;

use std::path::{Path, PathBuf};

use crate::args::GlobalArgs;

pub(crate) use build::{BuildSettings, ExpectCached, NoCache};
pub(crate) use call::Call;
pub(crate) use context::{Context, DockerfileFrom, NamedContext};
pub(crate) use environment::Environment;
pub(crate) use output::{Destination, Output, OutputKind};
pub(crate) use prune::{limit_bytes, prune_options};
pub(crate) use values::{HostName, Isolation, Network, Secret, SecretFrom, network};

/// A command line that cannot be meant, or contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct UsageError {
    /// What is wrong, with the value.
    pub(crate) message: String,
    /// What to write instead; empty when the message says so.
    pub(crate) hint: String,
}

impl UsageError {
    /// A message alone.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: String::new() }
    }

    /// A flag's value that cannot be read.
    pub(crate) fn value(flag: &str, value: &str, reason: &str) -> Self {
        Self::new(format!("cannot read `{flag} {value}`: {reason}"))
    }

    /// Adds what to write instead.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct GlobalSettings {
    /// The store's folder.
    pub(crate) root: PathBuf,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// A PEM file of further certificate authorities.
    pub(crate) ca: Option<PathBuf>,
    /// Whether messages on standard error are coloured.
    pub(crate) colours: bool,
    /// Docker's folder of settings, where credentials are looked for.
    pub(crate) docker_config: Option<PathBuf>,
}

impl GlobalSettings {
    /// Applies the environment to the global flags.
    ///
    /// # Errors
    /// When no folder can be found for the store, or the file of authorities does not exist.
    pub(crate) fn new(args: &GlobalArgs, environment: &Environment) -> Result<Self, UsageError> {
        let root = args.root.clone().or_else(|| environment.default_root()).ok_or_else(|| {
            UsageError::new("cannot tell where to keep images: neither HOME nor XDG_DATA_HOME is set")
                .hint("name a folder with `--root DIR` or RBUILD_ROOT")
        })?;
        let ca = args.ca.clone().or_else(|| environment.os("RBUILD_CA").map(PathBuf::from));
        if let Some(file) = ca.as_deref().filter(|file| !file.is_file()) {
            return Err(UsageError::new(format!("there is no file `{}` of certificate authorities", file.display()))
                .hint("`--ca` and RBUILD_CA name a file of certificates in PEM form"));
        }
        Ok(Self {
            root: absolute(&root, environment),
            verbose: args.verbose,
            ca: ca.map(|file| absolute(&file, environment)),
            colours: environment.colours(environment.stderr_is_terminal),
            docker_config: environment.docker_config(),
        })
    }
}

/// The path from the root of the file system.
pub(crate) fn absolute(path: &Path, environment: &Environment) -> PathBuf {
    environment.current_dir.join(path)
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// One line for each thing that happens.
    Plain,
    /// A picture of what runs now.
    Tty,
    /// Nothing.
    Quiet,
    /// One JSON object on each line.
    RawJson,
}

impl Progress {
    /// Reads a value of `--progress` or `BUILDKIT_PROGRESS`; `auto` asks whether standard error is a terminal.
    ///
    /// # Errors
    /// An unknown kind.
    pub(crate) fn new(flag: Option<&str>, quiet: bool, environment: &Environment) -> Result<Self, UsageError> {
        let from_environment = environment.text("BUILDKIT_PROGRESS");
        let kind = flag.or(from_environment.as_deref()).unwrap_or("auto");
        let capable = environment.stderr_is_terminal && !environment.is_dumb_terminal();
        match kind {
            _ if quiet && kind != "rawjson" => Ok(Self::Quiet),
            "auto" | "" | "tty" if capable => Ok(Self::Tty),
            // A terminal that cannot be drawn on, or none: lines are all that can be shown.
            "auto" | "" | "tty" | "plain" => Ok(Self::Plain),
            "quiet" | "none" => Ok(Self::Quiet),
            "rawjson" => Ok(Self::RawJson),
            _ => Err(UsageError::value("--progress", kind, "expected auto, tty, plain, quiet, none or rawjson")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_picked() {
        let mut terminal = Environment::of(&[]);
        terminal.stderr_is_terminal = true;
        let pipe = Environment::of(&[("BUILDKIT_PROGRESS", "rawjson")]);
        assert_eq!(Progress::new(None, false, &terminal).unwrap(), Progress::Tty);
        assert_eq!(Progress::new(None, true, &terminal).unwrap(), Progress::Quiet);
        assert_eq!(Progress::new(Some("tty"), false, &pipe).unwrap(), Progress::Plain);
        assert_eq!(Progress::new(None, false, &pipe).unwrap(), Progress::RawJson);
        assert_eq!(Progress::new(Some("none"), false, &pipe).unwrap(), Progress::Quiet);
        assert!(Progress::new(Some("loud"), false, &pipe).is_err());
    }

    #[test]
    fn relative_folders_are_anchored() {
        let args = GlobalArgs { root: Some("store".into()), ..GlobalArgs::default() };
        assert_eq!(GlobalSettings::new(&args, &Environment::of(&[])).unwrap().root, PathBuf::from("/work/store"));
    }
}
