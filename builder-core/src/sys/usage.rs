//! Memory: what running processes use, and what there is left.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The share of the time that looking at processes may take: one part in this many.
const LOOK_SHARE: u32 = 50;

/// More processes than this are not looked at one by one.
const PROCESSES_MAX: usize = 4096;

/// Watches how much memory a process and all that it started use.
#[derive(Debug)]
pub struct MemoryWatch {
    peak_bytes: u64,
    next: Instant,
}

impl MemoryWatch {
    /// Watches from some time on: what ends before is not worth a look.
    #[must_use]
    pub fn after(delay: Duration) -> Self {
        Self { peak_bytes: 0, next: Instant::now() + delay }
    }

    /// Looks at a process once, unless looking has cost too much time already. Memory that processes share counts for
    /// each of them.
    pub fn look(&mut self, process: BorrowedFd<'_>) {
        let started = Instant::now();
        if started < self.next {
            return;
        }
        if let Some(pid) = process_id(process) {
            self.peak_bytes = self.peak_bytes.max(resident_bytes(pid));
        }
        let ended = Instant::now();
        self.next = ended + (ended - started) * LOOK_SHARE;
    }

    /// The most that was seen, bytes.
    #[must_use]
    pub const fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
}

/// The number of the process that a descriptor names; `None` when it is gone.
fn process_id(process: BorrowedFd<'_>) -> Option<c_int> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 0)
}

/// What a process and all below it have in memory.
fn resident_bytes(pid: c_int) -> u64 {
    let mut todo = vec![pid];
    let mut bytes = 0;
    let mut seen = 0;
    while let Some(pid) = todo.pop() {
        seen += 1;
        if seen > PROCESSES_MAX {
            break;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        bytes += kib_field(&status, "VmRSS:").unwrap_or(0);
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|pid| pid.parse::<c_int>().ok()));
        }
    }
    bytes
}

/// How many bytes of memory programs can still take: what the machine has left, or the control groups of this process.
/// `None` where the kernel does not say.
#[must_use]
pub fn available_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib_field(&text, "MemAvailable:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_left(&groups, Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(group).min()
}

/// A line of a kernel's text with a number of KiB, as bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// What the tightest control group above this process leaves; files in memory count as free.
fn group_left(groups: &str, mounted: &Path) -> Option<u64> {
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Version 2 has one hierarchy without a name; version 1 has one for memory.
        let (root, names) = match controllers {
            "" => (mounted.to_owned(), ["memory.max", "memory.current", "inactive_file"]),
            named if named.split(',').any(|name| name == "memory") => {
                (mounted.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
            }
            _ => continue,
        };
        // Inside a container, the path is often that of the host, and the group itself is what is mounted.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = root.join(group);
            let (Some(limit), Some(used)) = (number(folder.join(names[0])), number(folder.join(names[1]))) else {
                continue;
            };
            let files = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let files = files.lines().find_map(|line| line.strip_prefix(names[2])?.trim().parse::<u64>().ok());
            let left = limit.saturating_sub(used.saturating_sub(files.unwrap_or(0)));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "600\n");
        write("a/memory.stat", "anon 5\ninactive_file 100\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "10\n");
        write("memory/c/memory.limit_in_bytes", "300\n");
        write("memory/c/memory.usage_in_bytes", "100\n");
        assert_eq!(group_left("0::/a/b\n", folder.path()), Some(500));
        assert_eq!(group_left("5:cpu,cpuacct:/c\n4:memory:/c\n0::/\n", folder.path()), Some(200));
        assert_eq!(group_left("0::/other\n", folder.path()), None);
        assert_eq!(kib_field("MemTotal: 9 kB\nMemAvailable:   7 kB\n", "MemAvailable:"), Some(7168));
        assert!(available_memory().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn sees_the_memory_of_children() {
        // The shell's child holds 40 MB in a variable, and says so.
        let script = "(x=$(head -c 40000000 /dev/zero | tr '\\0' a); echo ready; read line) ; true";
        let mut child =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut watch = MemoryWatch::after(Duration::ZERO);
        watch.look(std::os::fd::AsFd::as_fd(&pidfd));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(watch.peak_bytes() >= 40_000_000, "{}", watch.peak_bytes());
    }
}
