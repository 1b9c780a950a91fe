//! WORKDIR: how working directories are joined, on Linux and on Windows.

use std::ops::Range;

use rbuild_dockerfile::Word;

use super::error::{PlanError, code};
use super::stage::Walk;
use super::step::Action;

/// Why a path for Windows can't be a working directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DriveError {
    /// A drive alone.
    #[error("no path is given behind the drive in `{0}`")]
    NoPath(String),
    /// Another drive than the one that images have.
    #[error("`{0}` is not on the drive C:, the only one that images have")]
    OtherDrive(String),
    /// A name of another machine or device.
    #[error("`{0}` is a UNC path, which is not supported")]
    Unc(String),
}

impl Walk<'_> {
    pub(super) fn workdir(&mut self, word: &Word, span: Option<Range<usize>>) -> Result<(), PlanError> {
        let path = self.expanded(word)?;
        let current = self.state.plan.config.config.working_dir.clone();
        let directory = next_directory(&current, &path, &self.state.plan.platform.os)
            .map_err(|error| PlanError::new(code::WORKDIR, error.to_string(), word.span))?;
        self.config().working_dir.clone_from(&directory);
        let inside = inside(&directory, &self.state.plan.platform.os);
        let makes_layer = inside != "/";
        let history = self.history(format!("WORKDIR {directory}"), !makes_layer);
        if makes_layer {
            let owner = self.state.plan.config.config.user.clone();
            let action = Action::MakeDirectory { path: join_directory("/", &inside), owner };
            self.step(format!("WORKDIR {directory}"), span, action, history);
        }
        Ok(())
    }

    /// The working directory as a path in the image's tree.
    pub(super) fn working_dir(&self) -> String {
        join_directory("/", &inside(&self.state.plan.config.config.working_dir, &self.state.plan.platform.os))
    }
}

/// What the configuration says after WORKDIR.
///
/// COMPAT(buildkit): on Linux an absolute path is recorded as it is written, `/a//b/` too. On Windows paths have no drive
/// and backslashes, and `C:name` is relative to the directory before.
pub(super) fn next_directory(current: &str, path: &str, os: &str) -> Result<String, DriveError> {
    if os != "windows" {
        return Ok(match path {
            "" if current.starts_with('/') => current.to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => join_directory(current, path),
        });
    }
    let current = without_drive(current)?;
    let path = without_drive(path)?;
    Ok(join_directory(&current, &path).replace('/', "\\"))
}

/// A path for Windows with slashes, and without the one drive that there may be.
fn without_drive(path: &str) -> Result<String, DriveError> {
    let slashed = path.replace('\\', "/");
    if slashed.starts_with("//") {
        return Err(DriveError::Unc(path.to_owned()));
    }
    match slashed.split_once(':') {
        None => Ok(slashed),
        Some((drive, "")) if drive.len() == 1 => Err(DriveError::NoPath(path.to_owned())),
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => Ok(rest.to_owned()),
        Some(_) => Err(DriveError::OtherDrive(path.to_owned())),
    }
}

/// A directory of a configuration as a path in a tree.
fn inside(directory: &str, os: &str) -> String {
    if os == "windows" { directory.replace('\\', "/") } else { directory.to_owned() }
}

/// Joins a path to the one before, lexically.
pub(super) fn join_directory(current: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("/{current}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_joined() {
        for (current, path, want) in
            [("/", "a", "/a"), ("/a", "b/../c", "/a/c"), ("/a", "/b/", "/b"), ("", "..", "/"), ("/a", "", "/a")]
        {
            assert_eq!(join_directory(current, path), want, "{current} {path}");
        }
    }

    #[test]
    fn directories_are_recorded_as_buildkit_does() {
        for (os, current, path, want) in [
            ("linux", "/a//b/", "", "/a//b/"),
            ("linux", "/a", "/b//c/", "/b//c/"),
            ("linux", "/a", "C:\\b", "/a/C:\\b"),
            ("linux", "rel", "x", "/rel/x"),
            ("windows", "", "app", "\\app"),
            ("windows", "\\app", "C:\\data\\..\\b", "\\b"),
            ("windows", "C:\\app", "c:sub/dir", "\\app\\sub\\dir"),
            ("windows", "\\app", "/etc/", "\\etc"),
            ("windows", "\\app", "C:/", "\\"),
            ("windows", "\\app", "", "\\app"),
        ] {
            assert_eq!(next_directory(current, path, os).as_deref(), Ok(want), "{os} {current} {path}");
        }
        for (path, error) in [
            ("D:\\a", DriveError::OtherDrive("D:\\a".to_owned())),
            ("ab:\\c", DriveError::OtherDrive("ab:\\c".to_owned())),
            ("c:", DriveError::NoPath("c:".to_owned())),
            ("\\\\host\\share", DriveError::Unc("\\\\host\\share".to_owned())),
        ] {
            assert_eq!(next_directory("", path, "windows"), Err(error), "{path}");
        }
    }
}
