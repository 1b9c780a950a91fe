"""The workloads: build contexts, what is right in their images, and the pipes of ordinary tools to compare with."""
import os, pathlib, shutil
from dataclasses import dataclass, field

from .base import text

BASE = "localhost/base:1"


@dataclass
class Workload:
    """A build context and what is done with it."""

    name: str
    folder: pathlib.Path
    #: A path in the image and what it holds.
    expected: tuple
    #: A file whose content is replaced for the row `edit`.
    edited: pathlib.Path = None
    #: Shell pipes by row, on the same data.
    yardsticks: dict = field(default_factory=dict)
    #: The store is emptied before each `cold` build, since it remembers parts of large layers.
    empties: bool = False
    #: The same, and the base comes from a registry.
    pulls: bool = False


def small(folder, _):
    (folder / "src").mkdir(parents=True)
    for number in range(40):
        (folder / "src" / f"f{number}").write_bytes(text(number, 2700))
    (folder / "Dockerfile").write_text(f"""FROM {BASE}
ENV A=1
LABEL b=2
RUN echo one > /one
RUN echo two > /two
WORKDIR /app
COPY src/ /app/src/
RUN echo three > /three
EXPOSE 80
USER root
CMD ["true"]
""")
    return Workload("small", folder, ("/three", b"three\n"), folder / "src/f7")


def steps(folder, options):
    folder.mkdir(parents=True)
    lines = "".join(f"RUN echo {n} > /f{n}\n" for n in range(1, 31))
    (folder / "Dockerfile").write_text(f"FROM {BASE}\n{lines}")
    root = options["root"]
    bare = f"for n in $(seq 30); do unshare -mpf chroot {root} /bin/sh -c \"echo $n > /f$n\"; done"
    return Workload("steps", folder, ("/f30", b"30\n"), yardsticks={"cold": bare})


def big(folder, options):
    """A real tree: the first files of this machine's /usr, up to the asked number and size."""
    data = folder / "data"
    count, size, first = take_tree(pathlib.Path(options["tree"]), data, options["files"], options["bytes"])
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY data /data\nRUN ls /data > /listing\n")
    edited = data / "edited"
    edited.write_bytes(text(0, 4000))
    print(f"big: {count} files, {size / 1e9:.2f} GB of {options['tree']}", flush=True)
    return Workload("big", folder, (f"/data/{first.relative_to(data)}", first.read_bytes()), edited, {
        "cold": f"tar -C {data} -cf - . | pigz -6 -p2 > /dev/null",
        "noop": f"find {data} -printf '%p %s %T@\\n' > /dev/null",
        "edit": f"tar -C {data} -cf - . | sha256sum > /dev/null",
    }, empties=True)


def layer(folder, options):
    """One file of a gigabyte, packed of the same real tree."""
    folder.mkdir(parents=True)
    data = folder / "data"
    wanted = options["layer_bytes"]
    os.system(f"tar -C {options['tree']} -cf - . 2>/dev/null | head -c {wanted} > {data}")
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY data /data\nRUN cp /data /copy\nRUN echo done > /done\n")
    once = f"pigz -6 -p2 < {data} > /dev/null"
    return Workload("layer", folder, ("/done", b"done\n"), yardsticks={"cold": f"{once}; {once}"}, empties=True)


def pull(folder, options):
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text(f"FROM {options['pulled']}\nRUN echo done > /done\n")
    unpack = f'curl -s {options["blob"]} | gunzip | tar -C "$folder" -x --numeric-owner'
    pipe = f'folder=$(mktemp -d -p {folder.parent}) && {unpack}'
    return Workload("pull", folder, ("/done", b"done\n"), yardsticks={"cold": pipe}, pulls=True)


ALL = {"small": small, "steps": steps, "big": big, "layer": layer, "pull": pull}


def take_tree(source, target, files, size):
    """Copies the first regular files of `source`, in the order of their paths; gives number, bytes and one of them."""
    taken, total, first = 0, 0, None
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = pathlib.Path(folder) / name
            try:
                status = path.lstat()
            except OSError:
                continue
            if not os.path.isfile(path) or os.path.islink(path) or status.st_size > size // 10:
                continue
            if total + status.st_size > size:
                continue
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
            os.chmod(to, status.st_mode & 0o777 | 0o400)
            taken, total = taken + 1, total + status.st_size
            first = first or (to if 0 < status.st_size < 100_000 else None)
            if taken >= files:
                return taken, total, first
    return taken, total, first
