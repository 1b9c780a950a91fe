//! Runs real steps. Needs root (or a user namespace) and a static busybox at `/bin/busybox`.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rbuild_core::sys::mount::{Overlay, WritableLayer};
use rbuild_core::sys::sandbox::{Exit, Process, RootMount, Running, SandboxError, SandboxSpec, Stdio, spawn};

/// A root with busybox in a read-only layer and an empty upper directory.
struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lower = folder.path().join("lower");
        for name in ["bin", "etc", "tmp", "work", "mnt"] {
            fs::create_dir_all(lower.join(name)).expect("folders of the root");
        }
        for name in ["upper", "ovl"] {
            fs::create_dir(folder.path().join(name)).expect("overlay folders");
        }
        fs::copy("/bin/busybox", lower.join("bin/busybox")).expect("a static busybox");
        for name in ["sh", "true", "cat", "ls", "id", "sleep", "grep", "find", "touch", "mount", "env", "kill", "stat"]
        {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(name)).expect("applets");
        }
        fs::write(lower.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("users");
        Self { folder }
    }

    fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    fn upper(&self) -> PathBuf {
        self.folder.path().join("upper")
    }

    fn mount(&self) -> RootMount {
        RootMount::Overlay(Overlay {
            lower: vec![self.lower()],
            writable: Some(WritableLayer { upper: self.upper(), work: self.folder.path().join("ovl") }),
        })
    }

    fn spec(&self, arguments: &[&str]) -> SandboxSpec {
        SandboxSpec::new(self.mount(), process(arguments))
    }
}

fn process(arguments: &[&str]) -> Process {
    Process {
        arguments: arguments.iter().map(Into::into).collect(),
        environment: vec!["PATH=/usr/bin:/bin".into()],
        working_directory: "/".into(),
        ..Process::default()
    }
}

fn start(spec: SandboxSpec) -> (Result<Running, SandboxError>, fs::File) {
    let (read, write) = std::io::pipe().expect("a pipe");
    let stdout = OwnedFd::from(write);
    let stderr = stdout.try_clone().expect("a copy");
    (spawn(spec, Stdio::Descriptors { stdin: None, stdout, stderr }), fs::File::from(OwnedFd::from(read)))
}

fn run(spec: SandboxSpec) -> (Result<Exit, SandboxError>, String) {
    let (running, mut output) = start(spec);
    let mut text = String::new();
    let exit = running.and_then(|running| {
        output.read_to_string(&mut text).expect("text");
        running.wait()
    });
    (exit, text)
}

fn shell(root: &Root, script: &str) -> (Exit, String) {
    let (exit, text) = run(root.spec(&["sh", "-c", script]));
    (exit.unwrap_or_else(|error| panic!("{}: {text}", chain(&error))), text)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[test]
fn exit_status_output_and_changes() {
    let root = Root::new();
    assert_eq!(shell(&root, "echo hello; touch /made; exit 7"), (Exit::Code(7), "hello\n".into()));
    assert!(root.upper().join("made").exists());
    assert!(Path::new(&root.upper()).join("proc").is_dir());
}
