//! Why a step could not be started.

use std::io;
use std::path::PathBuf;

use crate::sys::mount::MountError;

/// A step could not be started, or its end could not be seen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The command is empty.
    #[error("the command is empty")]
    EmptyCommand,
    /// A text with a NUL byte cannot be given to a program.
    #[error("{what} holds a NUL byte: `{text}`")]
    NulByte {
        /// What the text is.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// The root file system could not be made.
    #[error("cannot make the root file system of the step")]
    Root {
        /// Why.
        source: MountError,
    },
    /// `dev`, `proc` or `sys` of the image is not a folder, so nothing can be mounted there.
    #[error("`/{name}` of the root file system is not a directory")]
    NotADirectory {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A mount of the step could not be made.
    #[error("cannot make the mount at `{target}`")]
    Mount {
        /// Where it goes.
        target: String,
        /// Why.
        source: MountError,
    },
    /// Nothing may be mounted there.
    #[error("cannot mount at `{target}`: it belongs to the sandbox")]
    ReservedTarget {
        /// Where it should have gone.
        target: String,
    },
    /// Devices, terminals and standard input and outputs could not be prepared.
    #[error("cannot prepare {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A step that is only a chroot has no mounts, networks or read-only roots.
    #[error("a step without namespaces cannot have {what}")]
    NeedsNamespaces {
        /// What was asked for.
        what: &'static str,
    },
    /// A step that may do everything has no filter that could hold its sockets back.
    #[error("a step without a system call filter needs a network that is connected")]
    NeedsFilter,
    /// The new process could not be made.
    #[error("cannot create the namespaces of the step")]
    Clone {
        /// What the kernel said.
        source: io::Error,
    },
    /// A call in the new process failed.
    #[error("cannot {stage}{}{subject}", if subject.is_empty() { "" } else { " " })]
    Setup {
        /// What was attempted.
        stage: Stage,
        /// With what, in backticks; may be empty.
        subject: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter the working directory `{path}`")]
    WorkingDirectory {
        /// The path inside the step.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program does not exist.
    #[error("the program `{program}` was not found{}", if *searched { " in PATH" } else { "" })]
    ProgramNotFound {
        /// The program as written.
        program: String,
        /// Whether `PATH` was searched.
        searched: bool,
    },
    /// The program exists and cannot be executed.
    #[error("the program `{program}` cannot be executed")]
    ProgramNotExecutable {
        /// The program as written.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The step's first process could not be waited for.
    #[error("cannot wait for the step")]
    Wait {
        /// What the kernel said.
        source: io::Error,
    },
}

impl SandboxError {
    /// The status that a shell gives for this failure: 127 for an unknown program, 126 for one that cannot be executed.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::ProgramNotFound { .. } => Some(127),
            Self::ProgramNotExecutable { .. } => Some(126),
            _ => None,
        }
    }
}

macro_rules! stages {
    ($($name:ident $text:literal,)*) => {
        /// What the new process was doing when a call failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum Stage {
            $(#[doc = concat!("To ", $text, ".")] $name,)*
        }

        impl Stage {
            const ALL: &[Self] = &[$(Self::$name,)*];

            pub(super) fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }
        }

        impl std::fmt::Display for Stage {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

stages! {
    Inherited "close what was inherited",
    Session "start a session",
    Network "enter the network namespace",
    Loopback "bring the loopback interface up",
    Propagation "make the mounts private",
    StageMount "set the mount aside for",
    FreshMount "mount the file system",
    MoveRoot "attach the root file system",
    PivotRoot "change the root file system",
    DetachOldRoot "detach the old root file system",
    MountPoint "find the mount point",
    Attach "attach the mount at",
    Mask "mask",
    ReadOnly "make read-only",
    Hostname "set the host name",
    Watch "watch the step's processes",
    Fork "start the command's process",
    StandardStreams "set up the standard streams",
    Terminal "take the terminal",
    Limits "set the resource limits",
    Chroot "change the root to",
    WorkingDirectory "enter the working directory",
    CheckProgram "execute a program through a link of the kernel",
    Gate "wait for the network",
    Filter "install the system call filter",
    Capabilities "limit the capabilities",
    Ids "become the user and group of",
    Execute "execute",
}
