"""The base image of the workloads: Debian where mmdebstrap can make it, else as many files and bytes of the same kind."""
import io, random, shutil, subprocess, tarfile

from .measure import note


def text(seed, size):
    """Bytes that compress by half, the same for the same seed."""
    return random.Random(seed).randbytes(size // 2).hex().encode()


def make(folder, debian=True, files=6000):
    """Makes `folder` a build context with `root.tar` and a Dockerfile; gives the name of what it is. Without Debian it has
    that many files besides busybox."""
    folder.mkdir(parents=True)
    tar = folder / "root.tar"
    kind = "Debian (mmdebstrap minbase)"
    if not (debian and shutil.which("mmdebstrap") and _debian(tar)):
        kind = f"busybox and {files} files of 28 kB"
        _busybox(tar, files)
    (folder / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nENV PATH=/usr/bin:/bin\nCMD ["sh"]\n')
    return kind


def _debian(tar):
    note("making a Debian base with mmdebstrap")
    # The mirror may be a copy of some earlier day.
    old = 'Acquire::Check-Valid-Until "false"'
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--aptopt={old}", "stable", str(tar)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        note(f"mmdebstrap failed, so the base is made of busybox: {done.stderr.strip()[-300:]}")
        tar.unlink(missing_ok=True)
    return done.returncode == 0


def _busybox(path, files):
    busybox = shutil.which("busybox") or "/bin/busybox"
    with tarfile.open(path, "w") as tar:
        def add(name, data=None, link=None, mode=0o755):
            info = tarfile.TarInfo(name)
            info.mode = mode
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if data is not None else None)

        for name in ["bin", "etc", "tmp", "usr", "usr/share"]:
            add(name)
        with open(busybox, "rb") as program:
            add("bin/busybox", program.read())
        for applet in ["sh", "cat", "echo", "cp", "ls", "true"]:
            add(f"bin/{applet}", link="busybox")
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
        add("etc/group", b"root:x:0:\n", mode=0o644)
        for number in range(files):
            add(f"usr/share/f{number}", text(number, 28_000), mode=0o644)
