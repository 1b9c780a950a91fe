//! Images that rbuild makes, in the hands of other people's tools from Debian's packages.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Bench, Registry, RunCommand, clean_command, have, is_root, wait_for};

const DOCKERFILE: &str = r#"
FROM busybox
LABEL purpose=test
RUN mkdir /data && echo made > /data/run.txt && ln /data/run.txt /data/link.txt && chown -R 1000:1000 /data
COPY --chmod=0750 hello.sh /usr/local/bin/hello
RUN rm -r /home && mkdir /home && chmod 1777 /home
USER app
WORKDIR /data
ENTRYPOINT ["/usr/local/bin/hello"]
CMD ["world"]
"#;
const SCRIPT: &str = "#!/bin/sh\necho \"hello $1, $(cat run.txt) by $(id -u) in $(pwd)\"\n";
const GREETING: &str = "hello world, made by 1000 in /data\n";

/// Builds the test image with an output, and gives the output's path.
fn image(bench: &Bench, output: &str, name: &str) -> String {
    let context = bench.context("context", &[("Dockerfile", DOCKERFILE), ("hello.sh", SCRIPT)]);
    let mut ids = fs::read_to_string(context.join("Dockerfile")).expect("just written");
    ids = ids.replace("COPY --chmod=0750", "COPY --chmod=0755");
    fs::write(context.join("Dockerfile"), ids).expect("write");
    let path = bench.path(name).display().to_string();
    bench.build(&context, &["-t", "example/hello:1", "-o", &format!("{output},dest={path}")]).ok();
    path
}

#[test]
fn skopeo_reads_archives_folders_and_the_store() {
    if !have("skopeo", &["skopeo"]) {
        return;
    }
    let bench = Bench::new();
    let archive = image(&bench, "type=oci", "image.tar");
    let text = Command::new("skopeo").args(["inspect", &format!("oci-archive:{archive}")]).ran().ok().stdout;
    assert!(text.contains(r#""purpose": "test""#), "{text}");
    let copied = bench.path("copied");
    Command::new("skopeo")
        .args(["copy", "--insecure-policy", &format!("oci-archive:{archive}"), &format!("dir:{}", copied.display())])
        .ran()
        .ok();
    assert!(copied.join("manifest.json").exists());
    let folder = image(&bench, "type=oci,tar=false", "layout");
    Command::new("skopeo").args(["inspect", "--config", &format!("oci:{folder}")]).ran().ok();
    let store = format!("oci:{}:docker.io/example/hello:1", bench.path("store").display());
    Command::new("skopeo").args(["inspect", &store]).ran().ok();
    let docker = image(&bench, "type=docker", "docker.tar");
    let text = Command::new("skopeo").args(["inspect", &format!("docker-archive:{docker}")]).ran().ok().stdout;
    assert!(text.contains(r#""purpose": "test""#), "{text}");
}

#[test]
fn umoci_unpacks_what_was_built() {
    if !have("umoci", &["umoci"]) || !is_root("umoci") {
        return;
    }
    let bench = Bench::new();
    let layout = image(&bench, "type=oci,tar=false", "layout");
    let bundle = bench.path("bundle");
    Command::new("umoci").args(["unpack", "--image", &format!("{layout}:1")]).arg(&bundle).ran().ok();
    let root = bundle.join("rootfs");
    assert_eq!(fs::read_to_string(root.join("data/run.txt")).expect("a file"), "made\n");
    assert_eq!(fs::read_to_string(root.join("usr/local/bin/hello")).expect("a file"), SCRIPT);
    let links = std::os::unix::fs::MetadataExt::nlink(&fs::metadata(root.join("data/link.txt")).expect("a file"));
    assert_eq!(links, 2);
}

/// `podman` with storage of its own.
fn podman(bench: &Bench) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(bench.path("podman")).arg("--runroot").arg(bench.path("podman-run"));
    command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
    // crun knows no machine that has both versions of control groups.
    if Path::new("/sys/fs/cgroup/unified").exists() {
        command.arg("--runtime=runc");
    }
    command
}

/// `podman run`. A root without the right to raise limits has no use for podman's default ones.
fn podman_run(bench: &Bench) -> Command {
    let mut command = podman(bench);
    command.args(["run", "--rm", "--network=none", "--pull=never"]);
    command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        command.arg("--cgroups=disabled");
    }
    command
}

#[test]
fn podman_loads_and_runs() {
    if !have("podman", &["podman"]) || !is_root("podman") {
        return;
    }
    let bench = Bench::new();
    for (output, name) in [("type=docker", "docker.tar"), ("type=oci", "oci.tar")] {
        let archive = image(&bench, output, name);
        podman(&bench).args(["load", "-i", &archive]).ran().ok();
        let ran = podman_run(&bench).arg("docker.io/example/hello:1").ran().ok();
        assert_eq!(ran.stdout, GREETING);
        podman(&bench).args(["rmi", "-f", "docker.io/example/hello:1"]).ran().ok();
    }
}

#[test]
fn buildah_starts_from_it() {
    if !have("buildah", &["buildah"]) || !is_root("buildah") {
        return;
    }
    let bench = Bench::new();
    let archive = image(&bench, "type=oci", "image.tar");
    let buildah = || {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(bench.path("buildah")).arg("--runroot").arg(bench.path("buildah-run"));
        command.arg("--storage-driver=vfs");
        command
    };
    let container = buildah().args(["from", &format!("oci-archive:{archive}")]).ran().ok().stdout;
    let ran = buildah().args(["run", "--isolation=chroot", container.trim(), "--", "cat", "/data/run.txt"]).ran().ok();
    assert_eq!(ran.stdout, "made\n");
    buildah().args(["rm", container.trim()]).ran().ok();
}

#[test]
fn docker_loads_and_runs() {
    if !have("docker", &["dockerd", "docker", "containerd"]) || !is_root("docker") {
        return;
    }
    let bench = Bench::new();
    let archive = image(&bench, "type=docker", "docker.tar");
    let socket = format!("unix://{}", bench.path("docker.sock").display());
    let mut daemon = Command::new("dockerd")
        .args(["--host", &socket, "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"])
        .arg("--data-root")
        .arg(bench.path("docker-data"))
        .arg("--exec-root")
        .arg(bench.path("docker-exec"))
        .arg("--pidfile")
        .arg(bench.path("docker.pid"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(bench.path("dockerd.log")).expect("log"))
        .spawn()
        .expect("dockerd starts");
    let docker = |arguments: &[&str]| Command::new("/usr/bin/docker").args(["--host", &socket]).args(arguments).ran();
    let result = std::panic::catch_unwind(|| {
        wait_for("dockerd", || docker(&["version"]).code == 0);
        docker(&["load", "-i", &archive]).ok();
        let ran = docker(&["run", "--rm", "--network=none", "example/hello:1"]).ok();
        assert_eq!(ran.stdout, GREETING);
    });
    let stopped = Command::new("kill").arg(daemon.id().to_string()).status();
    let _ = (stopped, daemon.wait());
    unmount_below(bench.folder.path());
    if let Err(panic) = result {
        eprintln!("{}", fs::read_to_string(bench.path("dockerd.log")).unwrap_or_default());
        std::panic::resume_unwind(panic);
    }
}

/// Takes away what a daemon left mounted, so that the folder can go.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below: Vec<&str> =
        mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| Path::new(p).starts_with(folder)).collect();
    for mount in below.iter().rev() {
        let _ = Command::new("umount").args(["-l", mount]).status();
    }
}

#[test]
fn a_pushed_image_is_pulled_run_and_built_upon() {
    if !have("registry", &["docker-registry", "podman"]) || !is_root("registry") {
        return;
    }
    let bench = Bench::new();
    let registry = Registry::start(&bench.path("registry"));
    let name = format!("{}/team/hello:1", registry.host);
    let context =
        bench.context("context", &[("Dockerfile", &DOCKERFILE.replace("0750", "0755")), ("hello.sh", SCRIPT)]);
    bench.build(&context, &["--push", "-t", &name]).ok();
    podman(&bench).args(["pull", "--tls-verify=false", &name]).ran().ok();
    assert_eq!(podman_run(&bench).arg(&name).ran().ok().stdout, GREETING);

    let child =
        bench.context("child", &[("Dockerfile", &format!("FROM {name}\nUSER root\nRUN cat /data/run.txt > /copy\n"))]);
    let fresh = || {
        let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
        command.arg("--root").arg(bench.path("fresh"));
        command
    };
    fresh().args(["build", "-t", "child"]).arg(&child).ran().ok();
    assert_eq!(fresh().args(["run", "--entrypoint", "cat", "child", "/copy"]).ran().ok().stdout, "made\n");
}
