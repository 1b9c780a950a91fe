//! Runs one RUN step.
//!
//! ```text
//! rbuild --clone--> PID 1 of the step (ours) --fork--> the command
//!   |  mounts made as       attaches them, pivots,        stdio, limits, filter, capabilities, ids, exec
//!   |  descriptors          reaps, watches
//!   |<------- report pipe: how the command ended, or which call failed -------|
//!   '-------- life line: PID 1 ends when rbuild does, and the kernel ends everything else with it
//! ```
//!
//! All that can be done before the clone is done in the parent with ordinary code: opening paths, making mounts,
//! building the system call filter, laying out arguments. The child then walks a prepared `plan` with
//! system calls only, since a fork of a process with threads may neither allocate nor lock.
//!
//! Invariants: mounts are attached only after the old root is gone, so no path of the image can lead one to the host;
//! every device a step can open is a bind mount of a verified host node on file systems that are otherwise `nodev`;
//! the command holds no descriptor above 2. Set-user-id programs work (as in BuildKit, `no_new_privs` is off), except
//! on mounts that the image did not bring.
//!
//! BuildKit runs the command as PID 1; here it is PID 2, so it sees default signal actions and its orphans are reaped.

use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub use rustix::process::Resource;

use super::mount::Overlay;
use crate::tree::TreePath;

mod child;
mod command;
mod devices;
mod error;
mod filter;
mod gate;
mod memory;
mod mounts;
mod placing;
mod plan;
mod running;

pub use error::{SandboxError, Stage};
pub use gate::{AtGate, Gate};
pub use running::{Exit, Running, spawn};

/// One RUN step as the kernel sees it.
#[derive(Debug)]
pub struct SandboxSpec {
    /// The root file system.
    pub root: RootMount,
    /// What is mounted into it, in this order.
    pub mounts: Vec<Mount>,
    /// The command.
    pub process: Process,
    /// The network it sees.
    pub network: NetworkMode,
    /// What it may do.
    pub security: SecurityMode,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// The host name it sees.
    pub hostname: OsString,
    /// Size of `/dev/shm`.
    pub shm_size_bytes: u64,
    /// Resource limits on top of no core files and 1024 (at most 1048576) open files.
    pub limits: Vec<ResourceLimit>,
    /// Whether the root file system refuses writes.
    pub read_only_root: bool,
    /// Host devices the step may use.
    pub devices: Vec<Device>,
    /// Whether the programs are 32-bit x86 ones on a 64-bit kernel; only they may use `socketcall(2)`, which no filter
    /// can look into.
    pub x86_32_bit: bool,
}

impl SandboxSpec {
    /// A step with the defaults of BuildKit: no network, sandboxed, 64 MiB of shared memory.
    #[must_use]
    pub fn new(root: RootMount, process: Process) -> Self {
        Self {
            root,
            mounts: Vec::new(),
            process,
            network: NetworkMode::None,
            security: SecurityMode::Sandbox,
            isolation: Isolation::Namespaces,
            hostname: "buildkitsandbox".into(),
            shm_size_bytes: 64 << 20,
            limits: Vec::new(),
            read_only_root: false,
            devices: Vec::new(),
            x86_32_bit: false,
        }
    }
}

/// Where a step's root file system comes from.
#[derive(Debug)]
pub enum RootMount {
    /// A stack of layers. `dev`, `proc` and `sys` are made in it when missing, as BuildKit does.
    Overlay(Overlay),
    /// A folder, shown as it is.
    Directory(PathBuf),
    /// A detached mount made before (by [`overlay`](super::mount::overlay)), so that mount points could be looked up
    /// and made in it. Close every other copy of the descriptor before the upper directory is read.
    Detached(OwnedFd),
}

/// One mount of a step.
#[derive(Debug)]
pub struct Mount {
    /// Where: every symbolic link already resolved inside the root, and the mount point exists. Not `/`, not in `/proc`
    /// or `/sys`; a mount point in `/dev` is made.
    pub target: TreePath,
    /// What.
    pub source: MountSource,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug)]
#[non_exhaustive]
pub enum MountSource {
    /// A file or folder of the host; set-user-id bits and devices in it do nothing.
    Bind(PathBuf),
    /// A path below a folder of the host, which is the root for every symbolic link on the way.
    BindBeneath {
        /// The folder.
        directory: PathBuf,
        /// The path in it.
        path: TreePath,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// The most it may hold; half of the memory without it.
        size_bytes: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
        /// Files it holds from the start.
        files: Vec<TmpfsFile>,
    },
    /// One file in memory that never touches a disk.
    SecretFile {
        /// Content.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A path of a stack of layers: a read-only view, or one whose writes go elsewhere.
    Overlay {
        /// The layers.
        overlay: Overlay,
        /// The path in them, where every symbolic link on the way stays inside.
        path: TreePath,
    },
    /// A socket of the host.
    Socket(PathBuf),
    /// A device node of the host, which can be opened.
    Device(PathBuf),
}

/// A file of a tmpfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsFile {
    /// Its name, one component.
    pub name: CString,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content.
    pub bytes: Vec<u8>,
}

/// The command of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments. A program without a slash is looked for in the `PATH` of `environment`.
    pub arguments: Vec<OsString>,
    /// The whole environment, as `NAME=value`; nothing is added.
    pub environment: Vec<OsString>,
    /// The working directory, from the root of the step. It must exist.
    pub working_directory: OsString,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// The network of a step.
#[derive(Debug, Clone)]
pub enum NetworkMode {
    /// A namespace with nothing but loopback.
    None,
    /// The host's.
    Host,
    /// A namespace that exists, see [`PrivateNetwork`](super::network::PrivateNetwork).
    Namespace(Arc<OwnedFd>),
    /// A namespace that is connected when the step wants a socket that is not a local one: see [`Running::take_gate`].
    /// Only for [`SecurityMode::Sandbox`]; without its filter there is no gate.
    Gated(Arc<OwnedFd>),
}

/// What a step may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityMode {
    /// Docker's default capabilities and system calls; kernel files masked or read-only.
    Sandbox,
    /// Everything that rbuild may do (`RUN --security=insecure`).
    Insecure,
}

/// How a step is kept apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// New mount, PID, IPC, UTS, cgroup and (unless it is the host's) network namespaces.
    Namespaces,
    /// Only `chroot(2)` into a folder; no mounts, and no security boundary.
    Chroot,
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    /// What is limited.
    pub resource: Resource,
    /// The limit in force.
    pub soft: Option<u64>,
    /// What the step may raise it to.
    pub hard: Option<u64>,
}

/// A host device that a step may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The device on the host.
    pub host: PathBuf,
    /// Its path in `/dev` of the step, without `/dev/`.
    pub name: TreePath,
}

/// Standard input and outputs of a step.
#[derive(Debug)]
pub enum Stdio {
    /// Descriptors; standard input is empty without one.
    Descriptors {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A new terminal in the step's own `/dev/pts`; [`Running::take_terminal`] is the other end.
    Terminal {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}
