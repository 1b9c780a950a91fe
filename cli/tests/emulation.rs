//! Commands for another processor: with an emulator that the kernel opened, with one that a step must see, and without.
//!
//! The kernel's list of emulators is one of a user namespace of its own (Linux 6.7), so that this machine's is not
//! touched. The emulator is busybox's shell, and a program for the other processor a shell script behind the beginning
//! of one.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Bench, Ran, RunCommand};

/// The beginning of a 64-bit little-endian executable for RISC-V.
const HEADER: [u8; 20] = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 243, 0];

/// Runs a command as root of a user namespace with one handler of the kernel.
fn run_with_handler(bench: &Bench, registration: &str, command: &Command) -> Ran {
    let fifo = bench.path("begin");
    let _ = fs::remove_file(&fifo);
    Command::new("mkfifo").arg(&fifo).ran().ok();
    let script = "read go < \"$1\" && mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 99\n\
        printf '%s' \"$2\" > /proc/sys/fs/binfmt_misc/register || exit 98\nshift 2\nexec \"$@\"";
    let child = support::clean_command("unshare")
        .args(["--user", "--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(&fifo)
        .arg(registration)
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare");
    // It is opened when the other side waits, in its namespace.
    let mut begin = fs::OpenOptions::new().write(true).open(&fifo).expect("the other side");
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), "0 0 65536").expect("a map");
    }
    begin.write_all(b"\n").expect("the other side");
    drop(begin);
    let output = child.wait_with_output().expect("its end");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What the kernel is told of the emulator.
fn registration(emulator: &Path, flags: &str) -> String {
    let magic: String = HEADER.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!(":rbuild-test:M::{magic}::{}:{flags}", emulator.display())
}

#[test]
fn commands_for_another_processor() {
    if !support::is_root("commands_for_another_processor")
        || !support::have("commands_for_another_processor", &["unshare", "mkfifo"])
    {
        return;
    }
    let bench = Bench::new();
    let emulator = bench.path("emulator/sh");
    fs::create_dir(bench.path("emulator")).expect("a folder");
    fs::copy("/bin/busybox", &emulator).expect("busybox");
    let probe = run_with_handler(&bench, &registration(&emulator, "F"), &Command::new("true"));
    if matches!(probe.code, 98 | 99) {
        println!("skipped: a user namespace can't have emulators of its own: {}", probe.stderr);
        return;
    }

    let base = bench.context("base", &[("Dockerfile", "FROM scratch\nCOPY program /program\n")]);
    let program = [&HEADER, b"\necho emulated > /out\n".as_slice()].concat();
    fs::write(base.join("program"), program).expect("a program");
    fs::set_permissions(base.join("program"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let layout = bench.path("riscv64");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    bench.build(&base, &["--platform=linux/riscv64", "-o", &output]).ok();

    let text = "FROM scratch AS other\nFROM base AS image\nRUN [\"/program\"]\n";
    let context = bench.context("context", &[("Dockerfile", text)]);
    let of_base = format!("base=oci-layout://{}", layout.display());
    let files = bench.path("files");
    let local = format!("type=local,dest={}", files.display());
    let flags = ["--platform=linux/riscv64", "--no-cache", "--build-context", &of_base, "-o", &local];
    let build = || bench.build_command(&context, &flags);

    // A handler for something else than this processor's programs.
    let none = registration(&emulator, "F").replace("\\xf3", "\\xf4");
    run_with_handler(&bench, &none, &build()).fails(
        1,
        &["the stage `image` runs commands for linux/riscv64", "Dockerfile:3", "apt-get install qemu-user-static"],
    );
    for emulated in [registration(&emulator, "F"), registration(&emulator, "")] {
        let _ = fs::remove_dir_all(&files);
        run_with_handler(&bench, &emulated, &build()).ok();
        assert_eq!(fs::read_to_string(files.join("out")).expect("what it wrote"), "emulated\n");
        let mut names: Vec<_> =
            fs::read_dir(&files).expect("files").map(|entry| entry.expect("a file").file_name()).collect();
        names.sort();
        assert!(names.iter().all(|name| name != "var"), "the emulator's place leaves no trace: {names:?}");
    }
    let doctor = run_with_handler(&bench, &registration(&emulator, ""), bench.rbuild().arg("doctor"));
    let line = format!("linux/riscv64    {} (shown to each step)", emulator.display());
    assert!(doctor.stdout.contains(&line), "{}", doctor.stdout);

    // One that needs libraries could not run in a step.
    let dynamic = std::env::current_exe().expect("this test");
    run_with_handler(&bench, &registration(&dynamic, ""), &build())
        .fails(1, &["can't run in a step: it needs libraries of this machine", "register it with the flag F"]);
}
