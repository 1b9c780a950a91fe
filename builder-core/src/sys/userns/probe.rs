//! What this host allows, as data for `rbuild doctor`.

use std::error::Error;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{SUBORDINATE, maps, read_text, restriction};
use crate::sys::mount::{self, Overlay, Restrictions, WritableLayer};
use crate::sys::process::find_program;
use crate::sys::sandbox::{Process, RootMount, SandboxError, SandboxSpec, Stdio, spawn};

/// What a probe needs from its caller.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions<'a> {
    /// A list of folders as in `PATH`.
    pub search_path: &'a OsStr,
    /// An existing folder on the disk where steps will run; a folder is made in it and removed again.
    pub directory: &'a Path,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What, as a word or two.
    pub name: &'static str,
    /// Whether it is there.
    pub available: bool,
    /// Whether steps cannot run without it.
    pub required: bool,
    /// What was found.
    pub detail: String,
}

/// What this host allows to this process as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Everything that was looked at, in the order to show.
    pub facts: Vec<Fact>,
}

impl Probe {
    /// Whether steps can run in namespaces of their own (rung a).
    #[must_use]
    pub fn namespaces(&self) -> bool {
        self.facts.iter().all(|fact| fact.available || !fact.required)
    }
}

/// Looks at this host. Call it after [`enter`](super::enter), successful or not.
#[must_use]
pub fn probe(options: ProbeOptions<'_>) -> Probe {
    let root = rustix::process::geteuid().is_root();
    let mut facts = vec![kernel(), user_namespaces(root), subordinate_ids(root, options.search_path)];
    let overlay = Fact { required: true, ..fact("overlay", overlay(options.directory)) };
    let sandbox = Fact { required: true, ..fact("sandbox", sandbox(options.directory)) };
    facts.extend([overlay, sandbox, fact("seccomp", seccomp()), pasta(options.search_path), control_groups()]);
    Probe { facts }
}

fn fact(name: &'static str, found: Result<String, String>) -> Fact {
    let available = found.is_ok();
    let (Ok(detail) | Err(detail)) = found;
    Fact { name, available, required: false, detail }
}

/// The oldest kernel that has every call without a fallback (`mount_setattr`).
const OLDEST_KERNEL: (u32, u32) = (5, 12);

fn kernel() -> Fact {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = if version >= OLDEST_KERNEL {
        Ok(format!("Linux {release}"))
    } else {
        Err(format!("Linux {release} is older than {}.{}", OLDEST_KERNEL.0, OLDEST_KERNEL.1))
    };
    Fact { required: true, ..fact("kernel", found) }
}

fn user_namespaces(root: bool) -> Fact {
    let found = match restriction() {
        Some(setting) => Err(format!("restricted by the sysctl `{setting}`")),
        None => Ok("not restricted".to_owned()),
    };
    Fact { required: !root, ..fact("user namespaces", found) }
}

fn subordinate_ids(root: bool, search_path: &OsStr) -> Fact {
    let map = read_text("/proc/self/uid_map");
    let count: u64 = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
    let found = if root {
        Ok(format!("{count} user ids"))
    } else {
        maps(rustix::process::geteuid().as_raw(), search_path)
            .map(|_| format!("from {} and {}", SUBORDINATE[0].0, SUBORDINATE[1].0))
            .map_err(|error| chain(&error))
    };
    Fact { required: !root, ..fact("subordinate ids", found) }
}

/// Mounts an overlay of empty folders, detached.
fn overlay(directory: &Path) -> Result<String, String> {
    let folder = tempfile::Builder::new().prefix("probe-").tempdir_in(directory).map_err(|error| chain(&error))?;
    let made = |name: &str| {
        let path = folder.path().join(name);
        rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU).map(|()| path).map_err(|error| chain(&io::Error::from(error)))
    };
    let layers = Overlay {
        lower: vec![made("lower")?],
        writable: Some(WritableLayer { upper: made("upper")?, work: made("work")? }),
    };
    let mounted = mount::overlay(&layers, Restrictions::PLAIN);
    mounted.map(|_| "with `userxattr`".to_owned()).map_err(|error| chain(&error))
}

/// Runs a step in an empty root: when all is well, only its program is missing.
fn sandbox(directory: &Path) -> Result<String, String> {
    let folder = tempfile::Builder::new().prefix("probe-").tempdir_in(directory).map_err(|error| chain(&error))?;
    let process = Process { arguments: vec!["/probe".into()], working_directory: "/".into(), ..Process::default() };
    let spec = SandboxSpec::new(RootMount::Directory(folder.path().into()), process);
    let stream = || {
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .map_err(|error| chain(&io::Error::from(error)))
    };
    let (stdout, stderr): (OwnedFd, OwnedFd) = (stream()?, stream()?);
    let end = spawn(spec, Stdio::Descriptors { stdin: None, stdout, stderr }).and_then(|running| running.wait());
    match end {
        Ok(_) | Err(SandboxError::ProgramNotFound { .. }) => {
            Ok("mount, pid, ipc, uts, cgroup and net namespaces".into())
        }
        Err(error) => Err(chain(&error)),
    }
}

fn seccomp() -> Result<String, String> {
    let actions = read_text("/proc/sys/kernel/seccomp/actions_avail");
    if actions.contains("errno") { Ok(actions.trim().to_owned()) } else { Err("the kernel has no filters".into()) }
}

fn pasta(search_path: &OsStr) -> Fact {
    let found = match find_program("pasta", search_path) {
        None => Err("`pasta` is not installed, so steps can only have no network or the host's".to_owned()),
        Some(path) => match rustix::fs::stat("/dev/net/tun") {
            Ok(_) => Ok(path.display().to_string()),
            Err(_) => Err("`/dev/net/tun` is missing".to_owned()),
        },
    };
    fact("private network", found)
}

fn control_groups() -> Fact {
    let found = match rustix::fs::statfs("/sys/fs/cgroup") {
        Ok(status) if status.f_type as u64 == CGROUP2_MAGIC => Ok("version 2".to_owned()),
        Ok(_) => Err("version 1, which steps do not see".to_owned()),
        Err(error) => Err(chain(&io::Error::from(error))),
    };
    fact("control groups", found)
}

const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
