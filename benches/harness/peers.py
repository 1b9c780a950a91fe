"""The builders: each loads the base, builds a context cold or warm, and shows a file of what it made."""
import json, os, pathlib, shutil, subprocess, tarfile, time

from .measure import measure, output
from .workloads import BASE

HERE = pathlib.Path(__file__).resolve().parent.parent.parent
RBUILD = os.environ.get("RBUILD", str(HERE / "target/release/rbuild"))
MADE = "localhost/made:1"


class Builder:
    """What all have in common. `archive` asks for an OCI archive beside what the builder keeps itself."""

    #: The client's processor time and memory are the whole builder's.
    is_one_process = False

    def __init__(self, work, archive):
        self.archive = work / f"{self.name}.tar" if archive else None

    def usable(self):
        """Why it can't be used; empty where it can."""
        return "" if shutil.which(self.program) else "it is not installed"

    def close(self):
        """Stops what `usable` started."""

    @staticmethod
    def put_aside(folder):
        """Empties a store by renaming it; it goes with the bench's folder. Ext4 makes files slowly for minutes after many
        were removed, which is nothing to be timed."""
        if folder.exists():
            folder.rename(f"{folder}.{time.monotonic_ns()}")


class Rbuild(Builder):
    name = program = "rbuild"
    is_one_process = True

    def __init__(self, work, archive):
        super().__init__(work, archive)
        self.root = work / "rbuild"

    def usable(self):
        return "" if os.path.exists(RBUILD) else f"there is no {RBUILD}: build it, or set RBUILD"

    def load_base(self, folder):
        measure([RBUILD, "--root", self.root, "build", "-q", "-t", BASE, folder])

    def forget(self):
        self.put_aside(self.root)

    def build(self, context, cold):
        to = ["-o", f"type=oci,dest={self.archive}"] if self.archive else []
        cold = ["--no-cache"] if cold else []
        return measure([RBUILD, "--root", self.root, "build", "-q", *cold, *to, "-t", MADE, context])

    def read(self, path):
        command = [RBUILD, "--root", self.root, "run", "--network=none", "--entrypoint", "/bin/cat", MADE, path]
        return subprocess.run([str(word) for word in command], check=True, capture_output=True).stdout

    def layer_sizes(self):
        """Bytes of the compressed layers that the image has above the base."""
        inspect = lambda name: json.loads(output(RBUILD, "--root", self.root, "inspect", name))
        layers = lambda name: inspect(name)[0]["platforms"][0]["manifest"]["layers"]
        below = {layer["digest"] for layer in layers(BASE)}
        return [layer["size"] for layer in layers(MADE) if layer["digest"] not in below]


class Buildah(Builder):
    name = program = "buildah"

    def __init__(self, work, archive):
        super().__init__(work, archive)
        self.folders = [work / "buildah", work / "buildah-run"]
        self.flags = ["--root", self.folders[0], "--runroot", self.folders[1], "--storage-driver", "overlay"]

    def load_base(self, folder):
        measure(["buildah", *self.flags, "build", "-q", "-t", BASE, folder])

    def forget(self):
        for folder in self.folders:
            self.put_aside(folder)

    def build(self, context, cold):
        flags = ["--layers", "--isolation", "chroot", "--tls-verify=false", *(["--no-cache"] if cold else [])]
        figure = measure(["buildah", *self.flags, "build", "-q", *flags, "-t", MADE, context])
        if self.archive:
            self.archive.unlink(missing_ok=True)
            figure.wall += measure(["buildah", *self.flags, "push", "-q", MADE, f"oci-archive:{self.archive}"]).wall
        return figure

    def read(self, path):
        container = output("buildah", *self.flags, "from", MADE).strip()
        folder = output("buildah", *self.flags, "mount", container).strip()
        try:
            return pathlib.Path(folder + path).read_bytes()
        finally:
            output("buildah", *self.flags, "rm", container)


class Docker(Builder):
    """BuildKit in a dockerd of its own, so that nobody's images and caches are touched. Steps have the host's network,
    since a bridge takes changes to the machine's firewall."""

    name = program = "docker"

    def __init__(self, work, archive):
        super().__init__(work, archive)
        self.folder = work / "docker"
        self.socket = f"unix://{self.folder}/socket"
        self.daemon = None

    def usable(self):
        missing = super().usable()
        if not missing and not shutil.which("dockerd"):
            missing = "dockerd is not installed"
        return missing or self._start()

    def _start(self):
        """Starts the daemon and finds a client that can use its BuildKit; gives what is wrong."""
        self.folder.mkdir(parents=True)
        inside = lambda name: str(self.folder / name)
        places = ["--data-root", inside("data"), "--exec-root", inside("exec"), "--pidfile", inside("pid"), "--host", self.socket]
        with open(self.folder / "log", "wb") as log:
            self.daemon = subprocess.Popen(
                ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", *places],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.environment = {**os.environ, "DOCKER_HOST": self.socket, "DOCKER_BUILDKIT": "1"}
        quiet = {"env": self.environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for _ in range(300):
            if self.daemon.poll() is not None:
                return f"dockerd ends at once: {(self.folder / 'log').read_text()[-300:].strip()}"
            if subprocess.run([self.program, "version"], **quiet).returncode == 0:
                break
            time.sleep(0.1)
        else:
            return "dockerd does not answer"
        for folder in os.get_exec_path():
            self.program = os.path.join(folder, "docker")
            trial = [self.program, "build", "-q", "-"]
            if os.access(self.program, os.X_OK) and subprocess.run(
                    trial, input=b"FROM scratch\nLABEL trial=1\n", **quiet).returncode == 0:
                return ""
        return "no client here can use BuildKit: buildx is missing"

    def close(self):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait()
            # What it left mounted would keep the folder.
            mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
            below = [line.split()[1] for line in mounts if line.split()[1].startswith(str(self.folder))]
            for mount in reversed(below):
                subprocess.run(["umount", "-l", mount], check=False)

    def load_base(self, folder):
        self._measure("build", "-q", "-t", BASE, folder)

    def forget(self):
        for image in (MADE, BASE):
            self._run("rmi", "-f", image, check=False)
        self._run("system", "prune", "-a", "-f")
        self._run("builder", "prune", "-a", "-f")

    def build(self, context, cold):
        figure = self._measure("build", "-q", "--network=host", *(["--no-cache"] if cold else []), "-t", MADE, context)
        if self.archive:
            self.archive.unlink(missing_ok=True)
            figure.wall += self._measure("save", "-o", self.archive, MADE).wall
        return figure

    def read(self, path):
        return self._run("run", "--rm", "--network=none", "--entrypoint", "/bin/cat", MADE, path).stdout

    def _measure(self, *words):
        return measure([self.program, *words], env=self.environment)

    def _run(self, *words, check=True):
        return subprocess.run([self.program, *words], env=self.environment, check=check, capture_output=True)


class Podman(Builder):
    """Podman's own build, in stores of its own, with the isolation that needs no cgroups, like Buildah's above."""

    name = program = "podman"

    def __init__(self, work, archive):
        super().__init__(work, archive)
        self.folders = [work / "podman", work / "podman-run"]
        self.command = ["podman", "--root", self.folders[0], "--runroot", self.folders[1], "--storage-driver", "overlay"]

    def load_base(self, folder):
        measure([*self.command, "build", "-q", "-t", BASE, folder])

    def forget(self):
        for folder in self.folders:
            self.put_aside(folder)

    def build(self, context, cold):
        flags = ["--isolation", "chroot", "--tls-verify=false", *(["--no-cache"] if cold else [])]
        figure = measure([*self.command, "build", "-q", *flags, "-t", MADE, context])
        if self.archive:
            self.archive.unlink(missing_ok=True)
            save = ["save", "-q", "--format", "oci-archive", "-o", self.archive, MADE]
            figure.wall += measure([*self.command, *save]).wall
        return figure

    def read(self, path):
        folder = output(*self.command, "image", "mount", MADE).strip()
        try:
            return pathlib.Path(folder + path).read_bytes()
        finally:
            output(*self.command, "image", "unmount", MADE)


class BuildKit(Builder):
    """buildctl with a running buildkitd (BUILDKIT_HOST says where). It always writes an archive."""

    name, program = "buildkit", "buildctl"

    def __init__(self, work, archive):
        super().__init__(work, True)
        self.layout = work / "buildkit-base"

    def usable(self):
        missing = super().usable()
        if not missing and subprocess.run(["buildctl", "debug", "workers"], capture_output=True).returncode:
            missing = "no buildkitd answers; start one and set BUILDKIT_HOST"
        return missing

    def load_base(self, folder):
        made = ["--output", f"type=oci,dest={self.layout},tar=false,name={BASE}"]
        measure(["buildctl", "build", "--frontend", "dockerfile.v0", "--local", f"context={folder}",
                 "--local", f"dockerfile={folder}", *made])

    def forget(self):
        measure(["buildctl", "prune", "--all"])

    def build(self, context, cold):
        base = []
        if self.layout.exists():
            digest = json.loads((self.layout / "index.json").read_text())["manifests"][0]["digest"]
            base = ["--oci-layout", f"base={self.layout}", "--opt", f"context:{BASE}=oci-layout://base@{digest}"]
        return measure(["buildctl", "build", "--frontend", "dockerfile.v0", "--local", f"context={context}",
                        "--local", f"dockerfile={context}", *(["--no-cache"] if cold else []), *base,
                        "--output", f"type=oci,dest={self.archive},name={MADE}"])

    def read(self, path):
        return read_from_archive(self.archive, path)


class Kaniko(Builder):
    """Kaniko's executor. It works on the file system that it runs in, so it is used only where that is a container's."""

    name, program = "kaniko", "executor"

    def __init__(self, work, archive):
        super().__init__(work, True)
        self.base = None

    def usable(self):
        missing = super().usable()
        return missing or ("" if os.environ.get("KANIKO_DIR") else "KANIKO_DIR is not set: this is not its own container")

    def load_base(self, folder):
        raise NotImplementedError("Kaniko takes its base from a registry: only the workload `pull` is run with it")

    def forget(self):
        pass

    def build(self, context, cold):
        return measure(["executor", "--context", f"dir://{context}", "--dockerfile", context / "Dockerfile", "--no-push",
                        "--insecure-pull", "--tar-path", self.archive, "--destination", MADE, "--cleanup"])

    def read(self, path):
        return read_from_archive(self.archive, path)


def read_from_archive(archive, path):
    """A file of the image in an OCI or Docker archive: of the topmost layer that has it."""
    with tarfile.open(archive) as outer:
        names = outer.getnames()
        load = lambda name: json.load(outer.extractfile(name))
        blob = lambda digest: "blobs/" + digest.replace(":", "/")
        if "manifest.json" in names:
            layers = load("manifest.json")[0]["Layers"]
        else:
            manifest = load(blob(load("index.json")["manifests"][0]["digest"]))
            layers = [blob(layer["digest"]) for layer in manifest["layers"]]
        for name in reversed(layers):
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                for member in layer:
                    if member.name.lstrip("./") == path.lstrip("/"):
                        return layer.extractfile(member).read()
    raise FileNotFoundError(path)


ALL = [Rbuild, BuildKit, Buildah, Docker, Podman, Kaniko]
