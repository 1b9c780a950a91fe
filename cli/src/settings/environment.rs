//! What the process was given besides its arguments: variables, the clock, the terminal. Read once, here.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::SystemTime;

/// The proxy variables that every Dockerfile may use without declaring them, in the upper-case form.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// The process's surroundings as values.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// All environment variables.
    pub(crate) variables: BTreeMap<OsString, OsString>,
    /// The folder that relative paths are meant from.
    pub(crate) current_dir: PathBuf,
    /// The time at the start.
    pub(crate) now: SystemTime,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard input is a terminal.
    pub(crate) stdin_is_terminal: bool,
    /// Whether rbuild was started by root.
    pub(crate) is_root: bool,
}

impl Environment {
    /// Reads all of it from the process.
    ///
    /// # Errors
    /// When the current folder is gone.
    pub(crate) fn of_process() -> std::io::Result<Self> {
        Ok(Self {
            variables: std::env::vars_os().collect(),
            current_dir: std::env::current_dir()?,
            now: SystemTime::now(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            is_root: rustix::process::geteuid().is_root(),
        })
    }

    /// A variable's value; an empty one counts as none.
    pub(crate) fn os(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A variable's value as text; an empty one counts as none.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.os(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable's value as text, even an empty one.
    pub(crate) fn exact(&self, name: &str) -> Option<String> {
        self.variables.get(OsStr::new(name)).map(|value| value.to_string_lossy().into_owned())
    }

    /// The proxy variables that are set, in whichever case they are written.
    pub(crate) fn proxies(&self) -> BTreeMap<String, String> {
        PROXIES
            .iter()
            .flat_map(|name| [(*name).to_owned(), name.to_lowercase()])
            .filter_map(|name| self.text(&name).map(|value| (name, value)))
            .collect()
    }

    /// Whether colours are wanted on a stream: `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR`, `TERM`, in this order.
    pub(crate) fn colours(&self, is_terminal: bool) -> bool {
        if self.os("NO_COLOR").is_some() {
            return false;
        }
        if self.text("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
            return true;
        }
        is_terminal && self.text("CLICOLOR").as_deref() != Some("0") && !self.is_dumb_terminal()
    }

    /// Whether the terminal can do no more than print lines.
    pub(crate) fn is_dumb_terminal(&self) -> bool {
        self.text("TERM").as_deref() == Some("dumb")
    }

    /// Whether messages may use letters outside ASCII: the locale is UTF-8, or none is set at all.
    pub(crate) fn is_utf8(&self) -> bool {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| self.text(name));
        locale.is_none_or(|locale| {
            let locale = locale.to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        })
    }

    /// The folder of Docker's settings: `DOCKER_CONFIG`, or `~/.docker`.
    pub(crate) fn docker_config(&self) -> Option<PathBuf> {
        self.os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| self.os("HOME").map(|home| PathBuf::from(home).join(".docker")))
    }

    /// The store's folder where no flag names it.
    pub(crate) fn default_root(&self) -> Option<PathBuf> {
        if let Some(root) = self.os("RBUILD_ROOT") {
            return Some(PathBuf::from(root));
        }
        if self.is_root {
            return Some(PathBuf::from("/var/lib/rbuild"));
        }
        let data = self.os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        data.or_else(|| self.os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
            .map(|folder| folder.join("rbuild"))
    }
}

#[cfg(test)]
impl Environment {
    /// An environment of a test: these variables, no terminal, an ordinary user in `/work`.
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self {
            variables: variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
            current_dir: PathBuf::from("/work"),
            now: SystemTime::UNIX_EPOCH,
            stderr_is_terminal: false,
            stdout_is_terminal: false,
            stdin_is_terminal: false,
            is_root: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_the_conventions() {
        for (variables, terminal, want) in [
            (&[][..], true, true),
            (&[], false, false),
            (&[("NO_COLOR", "1")], true, false),
            (&[("NO_COLOR", "")], true, true),
            (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], true, false),
            (&[("CLICOLOR_FORCE", "1")], false, true),
            (&[("CLICOLOR", "0")], true, false),
            (&[("TERM", "dumb")], true, false),
        ] {
            assert_eq!(Environment::of(variables).colours(terminal), want, "{variables:?} {terminal}");
        }
    }

    #[test]
    fn root_folder_has_an_order() {
        let folder = |variables: &[(&str, &str)]| Environment::of(variables).default_root();
        assert_eq!(folder(&[("RBUILD_ROOT", "/r"), ("HOME", "/h")]), Some("/r".into()));
        assert_eq!(folder(&[("XDG_DATA_HOME", "/d"), ("HOME", "/h")]), Some("/d/rbuild".into()));
        assert_eq!(folder(&[("XDG_DATA_HOME", "d"), ("HOME", "/h")]), Some("/h/.local/share/rbuild".into()));
        assert_eq!(folder(&[]), None);
    }
}
