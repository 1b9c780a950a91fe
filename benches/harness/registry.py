"""Debian's docker-registry on a loopback port, with the base image as an ordinary gzip layer in it."""
import hashlib, json, pathlib, platform, shutil, socket, subprocess, time, urllib.request

PROGRAM = shutil.which("docker-registry") or "/usr/bin/docker-registry"


def usable():
    return pathlib.Path(PROGRAM).exists()


class Registry:
    """Runs until the `with` block ends."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"localhost:{free.getsockname()[1]}"

    def __enter__(self):
        self.folder.mkdir()
        config = self.folder / "config.yml"
        config.write_text(f"""version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {self.folder}/data}}}}
http: {{addr: "{self.host.replace('localhost', '127.0.0.1')}"}}
""")
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen([PROGRAM, "serve", config], stdout=log, stderr=log)
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise RuntimeError("the registry did not start: " + (self.folder / "log").read_text()[-500:])

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def push_base(self, tar):
        """Pushes one uncompressed tar as an image `base:1`; gives its name and the address of its layer."""
        layer = tar.with_suffix(".tar.gz")
        with open(layer, "wb") as to:
            subprocess.run(["gzip", "-n", "-6", "-c", tar], stdout=to, check=True)
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        config = tar.with_suffix(".json")
        config.write_text(json.dumps({
            "architecture": architecture, "os": "linux", "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar)]}}))
        for blob in (layer, config):
            self._put_blob(blob)
        kind = "application/vnd.oci.image."
        described = lambda of, path: {"mediaType": f"{kind}{of}", "digest": digest(path), "size": path.stat().st_size}
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": f"{kind}manifest.v1+json", "config": described("config.v1+json", config),
            "layers": [described("layer.v1.tar+gzip", layer)]}).encode()
        self._request("PUT", "/v2/base/manifests/1", manifest, f"{kind}manifest.v1+json")
        return f"{self.host}/base:1", f"http://{self.host}/v2/base/blobs/{digest(layer)}"

    def _put_blob(self, path):
        place = self._request("POST", "/v2/base/blobs/uploads/").headers["Location"]
        place = place.split(self.host, 1)[-1]
        # A file is sent in pieces: what this process once had in memory would count as its children's.
        with open(path, "rb") as blob:
            self._request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest(path)}", blob,
                          "application/octet-stream", path.stat().st_size)

    def _request(self, method, path, body=b"", kind=None, size=None):
        request = urllib.request.Request(f"http://{self.host}{path}", data=body, method=method)
        if size is not None:
            request.add_header("Content-Length", str(size))
        if kind:
            request.add_header("Content-Type", kind)
        return urllib.request.urlopen(request)


def digest(path):
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
