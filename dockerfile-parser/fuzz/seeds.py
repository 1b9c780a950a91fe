"""Collects what the fuzz targets begin with: `seeds.py TESTDATA FOLDER` writes FOLDER/TARGET/* from the test data."""

import hashlib
import re
import sys
import tomllib
from pathlib import Path

testdata, folder = Path(sys.argv[1]), Path(sys.argv[2])


def write(target, text):
    data = text.encode() if isinstance(text, str) else text
    path = folder / target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def dockerfile(text):
    write("parse", text)
    for word in re.findall(r"\S*\$\S*", text):
        write("words", word)
    for line in text.splitlines():
        if re.search(r"--mount=|EXPOSE|HEALTHCHECK|STOPSIGNAL|--chmod=|<<|check=", line):
            for value in re.split(r"\s+|--mount=|--chmod=|--[a-z-]+=", line):
                write("options", value)
        if line.upper().startswith("FROM "):
            for word in line.split()[1:]:
                write("reference", word.removeprefix("--platform="))


def ignore_file(text):
    write("ignore", "a/b/c.txt\nsrc/main.rs\nsrc\n\n" + text)


for path in sorted(testdata.rglob("*")):
    if not path.is_file():
        continue
    if path.name.endswith("Dockerfile"):
        dockerfile(path.read_bytes().decode(errors="replace"))
    elif path.name.endswith(".dockerignore"):
        ignore_file(path.read_text())
    elif path.suffix == ".md" and path.parent.name == "lint":
        for example in re.findall(r"```dockerfile\n(.*?)```", path.read_text(), re.S):
            dockerfile(example)
    elif path.suffix == ".toml" and path.parent.parent.name in ("build", "cases"):
        case = tomllib.loads(path.read_text())
        dockerfile(case.get("dockerfile", ""))
        for name, content in case.get("files", {}).items():
            if name.endswith(".dockerignore") and isinstance(content, str):
                ignore_file(content)
    elif path.suffix == ".json" and path.parent.parent.name in ("build", "cases"):
        write("config", path.read_bytes()[:4096])

# Inputs that once failed, and what the test data has no example of.
for path in sorted((Path(__file__).parent / "seeds").rglob("*")):
    if path.is_file():
        write(path.parent.name, path.read_bytes())
