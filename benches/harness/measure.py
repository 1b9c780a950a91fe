"""One command timed: wall clock, processor time and peak memory of it and what it waited for."""
import os, subprocess, sys, tempfile, time
from dataclasses import dataclass


@dataclass
class Figure:
    """Seconds, seconds and bytes. What a daemon does for a command is in the wall clock alone; no peak is below that of
    this program, which Linux takes for the child's first."""

    wall: float
    cpu: float
    peak: int


class Failed(Exception):
    """A command that must succeed did not."""


def measure(command, shell=False, cwd=None, env=None):
    """Runs a command to its end and gives what it took; raises `Failed` with its last words.

    What was written before goes to the disk first, or the kernel would do that beside the command: for seconds after a
    builder that wrote gigabytes.
    """
    os.sync()
    with tempfile.TemporaryFile() as words:
        begin = time.perf_counter()
        child = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command] if shell else [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, cwd=cwd, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            words.seek(0)
            last = words.read()[-3000:].decode(errors="replace")
            shown = command if shell else " ".join(map(str, command))
            raise Failed(f"{shown}: status {child.returncode}\n{last}")
    # Linux gives the peak in KiB.
    return Figure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def output(*command, cwd=None):
    """What a command prints; raises `Failed` when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def warm(folder):
    """Reads a folder once, so that no builder pays for the disk alone."""
    subprocess.run(["tar", "-C", str(folder), "-cf", "/dev/null", "."], check=False, stderr=subprocess.DEVNULL)
    # GNU tar does not read what it writes to /dev/null.
    subprocess.run(f"find {folder} -type f -exec cat {{}} + > /dev/null", shell=True, check=False)


def note(text):
    """Says what happens, aside from the results."""
    print(text, file=sys.stderr, flush=True)
