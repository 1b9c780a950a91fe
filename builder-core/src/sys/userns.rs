//! Becoming uid 0 of an own user namespace, and what this host allows.
//!
//! ```text
//! host ids      1000            100000 ................ 165535     (/etc/subuid: user:100000:65536)
//!                |                |                        |
//! rbuild's ids   0                1 ...................  65536
//! ```
//!
//! The maps are written by `newuidmap` and `newgidmap`, the two set-user-id programs that may. A child that stays
//! outside runs them, because in the new namespace they would have no power. A process with threads cannot enter a
//! user namespace, so this is for `main` before it does anything else.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;

use super::call;
use super::process::{command, find_program, output};

mod probe;

pub use probe::{Fact, Probe, ProbeOptions, probe};

/// A user namespace could not be entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserNamespaceError {
    /// The process has threads already.
    #[error("cannot enter a user namespace: the process already has {threads} threads")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// The user has no subordinate ids.
    #[error("`{file}` gives user `{user}` no subordinate ids")]
    NoSubordinateIds {
        /// The file that should.
        file: &'static str,
        /// Name or number of the user.
        user: String,
    },
    /// A program is missing.
    #[error("`{program}` was not found in `{}`", search_path.display())]
    HelperMissing {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        search_path: OsString,
    },
    /// The kernel's settings forbid it.
    #[error("the kernel does not let this user create a user namespace{}", restriction.map(|r| format!(": `{r}`")).unwrap_or_default())]
    Forbidden {
        /// The setting that does, when known.
        restriction: Option<&'static str>,
        /// What the kernel said.
        source: io::Error,
    },
    /// The ids could not be mapped.
    #[error("cannot map the subordinate ids: {message}")]
    Map {
        /// What the helper program said.
        message: String,
    },
    /// Another call failed.
    #[error("cannot {action}")]
    Call {
        /// What was attempted.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UserNamespaceError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoSubordinateIds { .. } => {
                "give the user a range: `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`"
            }
            Self::HelperMissing { .. } => "install the package `uidmap` (Debian, Ubuntu) or `shadow-utils` (Fedora)",
            Self::Forbidden { restriction: Some(APPARMOR), .. } => {
                "allow rbuild in AppArmor, or set the sysctl `kernel.apparmor_restrict_unprivileged_userns` to 0"
            }
            Self::Forbidden { restriction: Some(CLONE_SWITCH), .. } => {
                "set the sysctl `kernel.unprivileged_userns_clone` to 1"
            }
            Self::Forbidden { restriction: Some(MAXIMUM), .. } => {
                "set the sysctl `user.max_user_namespaces` to a larger number"
            }
            Self::Forbidden { .. } => {
                "in a container, allow `unshare` (for example `--security-opt seccomp=unconfined`), or run as root"
            }
            Self::Threads { .. } | Self::Map { .. } | Self::Call { .. } => return None,
        })
    }
}

const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";
const CLONE_SWITCH: &str = "kernel.unprivileged_userns_clone";
const MAXIMUM: &str = "user.max_user_namespaces";

/// What this process is after [`enter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entered {
    /// It was root already.
    Root {
        /// Whether its mounts are its own now; without that right it still works where no mounts are needed.
        own_mounts: bool,
    },
    /// It is uid 0 of a new user namespace.
    UserNamespace {
        /// How many user ids it has, its own included.
        user_ids: u64,
        /// How many group ids it has, its own included.
        group_ids: u64,
    },
}

/// Makes this process uid 0 of a new user namespace, with mounts of its own. As root, only the latter.
///
/// `search_path` is a list as in `PATH`. Must be called before any thread exists. After an error the process is
/// unchanged unless the error is [`UserNamespaceError::Map`] or comes later, when it must end.
///
/// # Errors
/// When ids or programs are missing or the kernel refuses; [`UserNamespaceError::hint`] says what to do.
pub fn enter(search_path: &OsStr) -> Result<Entered, UserNamespaceError> {
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        return match call::unshare(libc::CLONE_NEWNS) {
            Ok(()) => make_mounts_private().map(|()| Entered::Root { own_mounts: true }),
            Err(Errno::PERM) => Ok(Entered::Root { own_mounts: false }),
            Err(error) => Err(failed("create a mount namespace")(error)),
        };
    }
    let threads = count_threads();
    if threads > 1 {
        return Err(UserNamespaceError::Threads { threads });
    }
    let maps = maps(uid, search_path)?;
    let count = |map: &Map| map.ranges.iter().map(|range| range.count).sum();
    let entered = Entered::UserNamespace { user_ids: count(&maps[0]), group_ids: count(&maps[1]) };
    unshare_mapped(&maps)?;
    make_mounts_private()?;
    Ok(entered)
}

fn failed(action: &'static str) -> impl Fn(Errno) -> UserNamespaceError {
    move |error| UserNamespaceError::Call { action, source: error.into() }
}

fn make_mounts_private() -> Result<(), UserNamespaceError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make the mounts private"))
}

fn count_threads() -> usize {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = rustix::fs::open("/proc/self/task", flags, Mode::empty()).and_then(rustix::fs::Dir::new);
    entries
        .map_or(1, |entries| entries.flatten().filter(|entry| !entry.file_name().to_bytes().starts_with(b".")).count())
}

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u64,
    outside: u64,
    count: u64,
}

/// One of the two maps and the program that writes it.
#[derive(Debug)]
struct Map {
    program: PathBuf,
    ranges: Vec<Range>,
}

const SUBORDINATE: [(&str, &str); 2] = [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")];

fn maps(uid: u32, search_path: &OsStr) -> Result<[Map; 2], UserNamespaceError> {
    let name = user_name(uid);
    let map = |(file, program): (&'static str, &'static str), own: u32| {
        let text = read_text(file);
        let found = subordinate_ranges(&text, name.as_deref(), uid);
        if found.is_empty() {
            let user = name.clone().unwrap_or_else(|| uid.to_string());
            return Err(UserNamespaceError::NoSubordinateIds { file, user });
        }
        let path = find_program(program, search_path)
            .ok_or_else(|| UserNamespaceError::HelperMissing { program, search_path: search_path.into() })?;
        Ok(Map { program: path, ranges: lay_out(own, &found) })
    };
    Ok([map(SUBORDINATE[0], uid)?, map(SUBORDINATE[1], rustix::process::getegid().as_raw())?])
}

/// The user's name in `/etc/passwd`; ids in `/etc/subuid` are usually given by name.
fn user_name(uid: u32) -> Option<String> {
    read_text("/etc/passwd").lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// First id and count of the ranges that a file like `/etc/subuid` gives a user, by name or number.
fn subordinate_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u64, u64)> {
    let number = uid.to_string();
    let mut ranges: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let user = fields.next()?;
            let mine = Some(user) == name || user == number;
            let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (mine && count > 0).then_some((first, count))
        })
        .collect();
    ranges.dedup();
    ranges
}

/// Own id at 0, then the ranges one after another.
fn lay_out(own: u32, ranges: &[(u64, u64)]) -> Vec<Range> {
    let mut map = vec![Range { inside: 0, outside: u64::from(own), count: 1 }];
    let mut inside = 1;
    for &(outside, count) in ranges {
        map.push(Range { inside, outside, count });
        inside += count;
    }
    map
}

/// Enters the namespaces while a child outside waits for its turn to write the maps.
fn unshare_mapped(maps: &[Map; 2]) -> Result<(), UserNamespaceError> {
    let pipe = || io::pipe().map_err(|source| UserNamespaceError::Call { action: "make a pipe", source });
    let ((mut go_end, go), (mut answer, answer_end)) = (pipe()?, pipe()?);
    let process = rustix::process::getpid().as_raw_nonzero();
    // SAFETY: this process has one thread, so the child is a full copy of it.
    let child = unsafe { call::fork_single_threaded() }.map_err(failed("start the helper that maps the ids"))?;
    if child.is_none() {
        drop((go, answer));
        if go_end.read_exact(&mut [0]).is_err() {
            call::exit(0);
        }
        let result = maps.iter().try_for_each(|map| write_map(map, process.get()));
        if let Err(message) = result {
            let _ = (&answer_end).write_all(message.as_bytes());
            call::exit(1);
        }
        call::exit(0);
    }
    drop((go_end, answer_end));
    let unshared = call::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
    if unshared.is_ok() {
        // Entering made the process unreadable to its own user, and so to the helpers.
        let _ = call::prctl(libc::PR_SET_DUMPABLE, 1);
        let _ = (&go).write_all(&[1]);
    }
    drop(go);
    let mut message = String::new();
    let _ = answer.read_to_string(&mut message);
    let ended = call::wait_any(true).map_err(failed("wait for the helper that maps the ids"))?;
    unshared.map_err(|error| UserNamespaceError::Forbidden { restriction: restriction(), source: error.into() })?;
    if !message.is_empty() || ended.is_none_or(|(_, status)| status != 0) {
        return Err(UserNamespaceError::Map { message });
    }
    Ok(())
}

fn write_map(map: &Map, process: i32) -> Result<(), String> {
    let mut helper = command(&map.program, []);
    helper.arg(process.to_string());
    for range in &map.ranges {
        helper.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    output(&mut helper, 4096).map(drop).map_err(|error| match error {
        super::process::ProcessError::Failed { message, .. } if !message.is_empty() => message,
        error => error.to_string(),
    })
}

/// The kernel setting that forbids user namespaces, if one does.
fn restriction() -> Option<&'static str> {
    let setting = |name: &str| {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        read_text(&path.to_string_lossy()).trim().parse::<i64>().ok()
    };
    if setting(MAXIMUM) == Some(0) {
        return Some(MAXIMUM);
    }
    if setting(CLONE_SWITCH) == Some(0) {
        return Some(CLONE_SWITCH);
    }
    (setting(APPARMOR) == Some(1)).then_some(APPARMOR)
}

fn read_text(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut bytes = Vec::new();
    if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
        let _ = std::fs::File::from(file).take(16 << 20).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_number() {
        let text = "alice:100000:65536\nbob:165536:65536\n1000:300000:10\nbad\nalice:x:1\nalice:5:0\n";
        assert_eq!(subordinate_ranges(text, Some("alice"), 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(subordinate_ranges(text, Some("bob"), 7), [(165_536, 65_536)]);
        assert_eq!(subordinate_ranges(text, None, 7), []);
    }

    #[test]
    fn own_id_comes_first() {
        let map = lay_out(1000, &[(100_000, 5), (200_000, 7)]);
        assert_eq!(map[0], Range { inside: 0, outside: 1000, count: 1 });
        assert_eq!(map[1], Range { inside: 1, outside: 100_000, count: 5 });
        assert_eq!(map[2], Range { inside: 6, outside: 200_000, count: 7 });
    }
}
