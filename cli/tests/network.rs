//! RUN steps wait for their private network when they want a socket, and for nothing before.
//!
//! Programs of our own stand in for `pasta`: one that never gets ready, one that fails, one that changes the namespace
//! before it says that it is ready.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::{Bench, Ran, RunCommand, have, is_root, processes_with};

/// Whether steps can have networks of their own here; says that the test is skipped where not.
fn have_networks() -> bool {
    let tunnel = Path::new("/dev/net/tun").exists();
    if !tunnel {
        eprintln!("skipped: network needs /dev/net/tun");
    }
    is_root("network") && tunnel
}

/// Opens a socket, and lists the network's interfaces.
const ASKS: &str = "ip link show lo";

fn pasta(bench: &Bench, script: &str) {
    let folder = bench.path("programs");
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join("pasta"), format!("#!/bin/sh\n{script}\n")).expect("program");
    fs::set_permissions(folder.join("pasta"), fs::Permissions::from_mode(0o755)).expect("mode");
}

fn command(bench: &Bench, context: &Path, flags: &[&str]) -> Command {
    let path = format!("{}:{}", bench.path("programs").display(), std::env::var("PATH").expect("a PATH"));
    let mut command = bench.build_command(context, &[&["-v", "--no-cache"], flags].concat());
    command.env("PATH", path);
    command
}

fn build(bench: &Bench, steps: &str) -> Ran {
    let context = bench.context("context", &[("Dockerfile", &format!("FROM busybox\n{steps}"))]);
    command(bench, &context, &[]).ran()
}

#[test]
fn a_step_without_sockets_needs_no_network() {
    if !have_networks() {
        return;
    }
    let bench = Bench::new();
    pasta(&bench, "exec sleep 1000");
    let steps = "RUN ls /sys/class/net; echo done > /done\nRUN cat /done /etc/resolv.conf\n";
    let ran = build(&bench, steps).ok().says(&[" lo\n", " done\n", "nameserver 169.254.1.1\n"]);
    assert!(!ran.stderr.contains("network:"), "{}", ran.stderr);
}

#[test]
fn a_socket_waits_until_the_network_is_connected() {
    if !have_networks() || !have("network", &["nsenter", "ip"]) {
        return;
    }
    let bench = Bench::new();
    // What is changed before it says that it is ready must be seen by the first socket.
    let set = "/usr/bin/nsenter --net=/dev/rbuild-network ip link set lo mtu 12345";
    pasta(&bench, &format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin; sleep 0.3; {set} || exit 1; echo 1; exec sleep 1000"));
    let steps = format!("RUN echo begun; {ASKS}; {ASKS}\nRUN {ASKS}\nRUN --network=none {ASKS}\n");
    let ran = build(&bench, &steps).ok().says(&[" begun\n", "note: network: a private one, through pasta\n"]);
    assert_eq!(ran.stderr.matches("mtu 12345").count(), 3, "{}", ran.stderr);
    let noted = ran.stderr.find("through pasta").expect("the note");
    assert!(ran.stderr.find(" begun").expect("its output") < noted, "the command waited too early:\n{}", ran.stderr);
}

#[test]
fn a_step_whose_network_cannot_be_connected_starts_again_on_the_hosts() {
    if !have_networks() {
        return;
    }
    let bench = Bench::new();
    pasta(&bench, "echo no route >&2; exit 3");
    let steps = format!(
        "RUN echo once >> /times; {ASKS}; cat /times /etc/resolv.conf; cat /proc/net/dev | wc -l\nRUN cat /proc/net/dev | wc -l\n"
    );
    let host = fs::read_to_string("/proc/net/dev").expect("this host's").lines().count();
    let ran = build(&bench, &steps).ok().says(&[
        "network: the host's, because a private one can't be had",
        "could not connect the network: no route",
        "network: the command is started again, on the host's",
    ]);
    assert_eq!(ran.stderr.matches(" once\n").count(), 1, "what the first try wrote is gone:\n{}", ran.stderr);
    assert_eq!(ran.stderr.matches(&format!(" {host}\n")).count(), 2, "{}", ran.stderr);
    assert!(!ran.stderr.contains("169.254.1.1"), "{}", ran.stderr);
}

#[test]
fn a_user_who_may_not_open_the_tunnel_has_the_hosts_network_at_once() {
    if !have_networks() || !have("network", &["unshare"]) {
        return;
    }
    let bench = Bench::new();
    pasta(&bench, "exec sleep 1000");
    let context = bench.context("context", &[("Dockerfile", &format!("FROM busybox\nRUN echo begun; {ASKS}\n"))]);
    let build = command(&bench, &context, &[]);
    // The same command where the device is missing.
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\""]);
    hidden.arg(build.get_program()).args(build.get_args());
    hidden.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = hidden
        .ran()
        .ok()
        .says(&["network: the host's", "`/dev/net/tun`, which `pasta` needs, cannot be opened: No such file"]);
    assert!(!ran.stderr.contains("started again"), "{}", ran.stderr);
}

#[test]
fn a_build_that_is_cancelled_at_the_gate_leaves_nothing() {
    if !have_networks() {
        return;
    }
    let bench = Bench::new();
    let marker = format!("7{:08}", std::process::id());
    pasta(&bench, &format!("exec sleep {marker}"));
    let steps = format!("FROM busybox\nRUN sleep {marker} & {ASKS}\n");
    let context = bench.context("context", &[("Dockerfile", &steps)]);
    let mut child = command(&bench, &context, &[]).stderr(std::process::Stdio::null()).spawn().expect("it starts");
    let sleeping = || processes_with(&format!("sleep {marker}"));
    support::wait_for("pasta, and the step's own process", || {
        sleeping().iter().filter(|line| line.starts_with("sleep")).count() == 2
    });
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("a signal");
    let status = child.wait().expect("it ends");
    assert!(!status.success());
    assert_eq!(sleeping(), Vec::<String>::new());
}

#[test]
fn an_insecure_step_finds_its_network_connected() {
    if !have_networks() {
        return;
    }
    let bench = Bench::new();
    pasta(&bench, "echo 1; exec sleep 1000");
    let steps = "FROM busybox\nRUN --security=insecure echo begun; ip link show lo\n";
    let context = bench.context("context", &[("Dockerfile", steps)]);
    let ran = command(&bench, &context, &["--allow=security.insecure"]).ran().ok().says(&[" begun\n", "through pasta"]);
    assert!(ran.stderr.find("through pasta") < ran.stderr.find(" begun\n"), "{}", ran.stderr);
}

#[test]
fn pasta_connects_a_step_that_asks() {
    if !have_networks() || !have("network", &["pasta"]) {
        return;
    }
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", "FROM busybox\nRUN ip route\n")]);
    bench.build(&context, &["-v"]).ok().says(&["through pasta", "default via "]);
}
