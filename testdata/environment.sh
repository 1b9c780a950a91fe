# Sourced by the scripts beside it: what tests need of the machine, made on the spot.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rbuild=${RBUILD:-${CARGO_TARGET_DIR:-$repository/target}/release/rbuild}

# Installs Debian packages that are not there yet, by the names of a program of each: `need program:package ...`
need() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || [ -e "/usr/sbin/${pair%%:*}" ] || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    local as_root=() errors
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    echo "installing ${missing[*]}" >&2
    errors=$(mktemp)
    { "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>"$errors" || {
        cat "$errors" >&2
        echo "these Debian packages are needed and could not be installed: ${missing[*]}" >&2
        return 1
    }
    rm -f "$errors"
}

# Makes an OCI layout of a small image from Debian's busybox-static: `busybox_layout FOLDER`
busybox_layout() {
    local layout=$1 root busybox applet layer config
    busybox=$(command -v busybox || echo /bin/busybox)
    root=$(mktemp -d)
    mkdir -p "$root"/{bin,dev,etc,home,proc,root,sys,tmp,usr/bin,var} "$layout/blobs/sha256"
    chmod 1777 "$root/tmp"
    cp "$busybox" "$root/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$root" -cf "$layout/layer.tar" .
    rm -rf "$root"
    layer=$(sha256sum "$layout/layer.tar" | cut -c1-64)
    mv "$layout/layer.tar" "$layout/blobs/sha256/$layer"
    local size config_size manifest manifest_size architecture
    size=$(stat -c %s "$layout/blobs/sha256/$layer")
    case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
    printf '{"architecture":"%s","config":{"Cmd":["/bin/sh"],"Env":["PATH=/bin:/usr/bin"]},"os":"linux","rootfs":{"diff_ids":["sha256:%s"],"type":"layers"}}' "$architecture" "$layer" >"$layout/config"
    config=$(sha256sum "$layout/config" | cut -c1-64)
    config_size=$(stat -c %s "$layout/config")
    mv "$layout/config" "$layout/blobs/sha256/$config"
    printf '{"config":{"digest":"sha256:%s","mediaType":"application/vnd.oci.image.config.v1+json","size":%s},"layers":[{"digest":"sha256:%s","mediaType":"application/vnd.oci.image.layer.v1.tar","size":%s}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}' \
        "$config" "$config_size" "$layer" "$size" >"$layout/manifest"
    manifest=$(sha256sum "$layout/manifest" | cut -c1-64)
    manifest_size=$(stat -c %s "$layout/manifest")
    mv "$layout/manifest" "$layout/blobs/sha256/$manifest"
    printf '{"manifests":[{"annotations":{"org.opencontainers.image.ref.name":"latest"},"digest":"sha256:%s","mediaType":"application/vnd.oci.image.manifest.v1+json","size":%s}],"schemaVersion":2}' "$manifest" "$manifest_size" >"$layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

# Starts Debian's docker-registry on a free loopback port: sets `registry` (host:port) and `registry_process`.
start_registry() {
    local folder=$1 port program
    program=$(command -v docker-registry || echo /usr/bin/docker-registry)
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    mkdir -p "$folder"
    cat >"$folder/config.yml" <<CONFIG
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $folder/data}}
http: {addr: "127.0.0.1:$port"}
CONFIG
    "$program" serve "$folder/config.yml" >"$folder/log" 2>&1 &
    registry_process=$!
    registry=localhost:$port
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
        sleep 0.1
    done
    cat "$folder/log" >&2
    return 1
}

# Makes an ordinary user with subordinate ids for tests, unless it is there: sets `test_user`.
test_user() {
    test_user=rbuild-test
    id "$test_user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$test_user"
    local file
    for file in /etc/subuid /etc/subgid; do
        grep -q "^$test_user:" "$file" 2>/dev/null || echo "$test_user:500000:65536" >>"$file"
    done
}
