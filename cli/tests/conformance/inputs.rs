//! What a case is built from: contexts, archives and the base image.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, utimensat};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::case::{File, Files};

/// 2001-02-03T04:05:06Z: every context file's modification time.
pub(crate) const MODIFIED: i64 = 981_173_106;

/// Archives are filled up to whole records, as tar writes them: cases that copy an archive compare its bytes.
const RECORD_BYTES: usize = 10_240;

/// The digest of those bytes, as hexadecimal digits.
pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes an archive of those files, compressed as said.
pub(crate) fn archive(files: &Files, compression: Option<&str>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, value) in files {
        append(&mut builder, name, &File::read(value));
    }
    let mut bytes = builder.into_inner().expect("writing to memory");
    bytes.resize(bytes.len().next_multiple_of(RECORD_BYTES), 0);
    compress(&bytes, compression)
}

/// Writes the checksum in the form that POSIX asks for, which the recorded archives have: six digits, NUL and a blank.
fn write_checksum(header: &mut tar::Header) {
    header.set_cksum();
    let checksum = header.cksum().expect("it was just set");
    let field = header.as_ustar_mut().expect("the header was made as ustar");
    field.cksum.copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
}

fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, file: &File) {
    let mut extensions: Vec<(String, Vec<u8>)> =
        file.xattrs.iter().map(|(key, value)| (format!("SCHILY.xattr.{key}"), value.clone().into_bytes())).collect();
    let mut header = tar::Header::new_ustar();
    header.set_mtime(MODIFIED.unsigned_abs());
    header.set_uid(file.uid.unwrap_or(0).into());
    header.set_gid(file.gid.unwrap_or(0).into());
    header.set_size(0);
    let mut link = String::new();
    let mut data = Vec::new();
    let (kind, mode) = if name.ends_with('/') {
        (tar::EntryType::Directory, file.mode_or(0o755))
    } else if let Some(target) = &file.symlink {
        link.clone_from(target);
        (tar::EntryType::Symlink, 0o777)
    } else if let Some(target) = &file.hardlink {
        link.clone_from(target);
        (tar::EntryType::Link, 0o644)
    } else if file.fifo.is_some() {
        (tar::EntryType::Fifo, file.mode_or(0o644))
    } else {
        data = match &file.text {
            Some(text) if !text.is_empty() => text.clone().into_bytes(),
            _ => vec![0; file.size.unwrap_or(0)],
        };
        header.set_size(data.len() as u64);
        (tar::EntryType::Regular, file.mode_or(0o644))
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    // Names go in unchecked: `..` and absolute paths are what some cases are about.
    let fields = header.as_ustar_mut().expect("the header was made as ustar");
    place(&mut fields.name, name, "path", &mut extensions);
    place(&mut fields.linkname, &link, "linkpath", &mut extensions);
    write_checksum(&mut header);
    if !extensions.is_empty() {
        let extensions = extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        builder.append_pax_extensions(extensions).expect("writing to memory");
    }
    builder.append(&header, data.as_slice()).expect("writing to memory");
}

fn place(field: &mut [u8; 100], text: &str, key: &str, extensions: &mut Vec<(String, Vec<u8>)>) {
    let fits = text.len() <= field.len();
    if !fits || !text.is_ascii() {
        extensions.push((key.to_owned(), text.as_bytes().to_vec()));
    }
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

fn compress(bytes: &[u8], compression: Option<&str>) -> Vec<u8> {
    match compression {
        None => bytes.to_vec(),
        Some("gz") => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).expect("writing to memory");
            encoder.finish().expect("writing to memory")
        }
        // The crate that reads xz files in rbuild is built without its encoder.
        Some("xz") => {
            let mut input = tempfile::tempfile().expect("a temporary file");
            input.write_all(bytes).and_then(|()| input.rewind()).expect("a temporary file");
            Command::new("xz").arg("-c").stdin(input).output().expect("the Debian package xz-utils is installed").stdout
        }
        Some("bz2") => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(bytes).expect("writing to memory");
            encoder.finish().expect("writing to memory")
        }
        Some("zst") => zstd::encode_all(bytes, 3).expect("writing to memory"),
        Some(other) => panic!("a case asks for an unknown compression: {other}"),
    }
}

/// Makes those files below `root`, all of them last modified at [`MODIFIED`].
pub(crate) fn make_files(root: &Path, files: &Files) {
    fs::create_dir_all(root).expect("a context folder");
    let mut links = Vec::new();
    for (name, value) in files {
        let file = File::read(value);
        let path = root.join(name.trim_end_matches('/'));
        fs::create_dir_all(path.parent().expect("a path below the root")).expect("a folder of the context");
        if let Some(target) = &file.symlink {
            symlink(target, &path).expect("a symbolic link of the context");
            continue;
        }
        if let Some(target) = &file.hardlink {
            links.push((root.join(target), path));
            continue;
        }
        make_file(&path, name, &file);
        let mode = file.mode_or(if name.ends_with('/') { 0o755 } else { 0o644 });
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode of a file");
        if file.uid.is_some() || file.gid.is_some() {
            // A change of owner clears setuid bits, here as in whatever made the recorded results.
            chown(&path, Some(file.uid.unwrap_or(0)), Some(file.gid.unwrap_or(0))).expect("the owner of a file");
        }
    }
    for (target, path) in links {
        fs::hard_link(target, path).expect("a hard link of the context");
    }
    settle_all(root);
}

fn make_file(path: &Path, name: &str, file: &File) {
    if name.ends_with('/') {
        return fs::create_dir_all(path).expect("a folder of the context");
    }
    if file.fifo.is_some() {
        return rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o644), 0)
            .expect("a named pipe of the context");
    }
    let data = if let Some(entries) = &file.tar {
        archive(entries, file.compress.as_deref())
    } else if let Some(text) = &file.base64 {
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64 of a case")
    } else if let Some(size) = file.size {
        vec![0; size]
    } else {
        file.text.clone().expect("a file of a case says what it is").into_bytes()
    };
    fs::write(path, data).expect("a file of the context");
}

/// Settles everything below that folder, what is deepest first, for making files changes their folders' times.
fn settle_all(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("an entry of the context").path()) {
        if path.is_dir() && !path.is_symlink() {
            settle_all(&path);
        }
        settle(&path, MODIFIED);
    }
}

/// Sets the modification time. Its nanoseconds come from the contents: builders that keep a copy of the context between
/// builds take a file of the same name, size and time for unchanged.
pub(crate) fn settle(path: &Path, seconds: i64) {
    let mut nanoseconds = 0;
    if path.is_file() && !path.is_symlink() {
        let mut bytes = Vec::new();
        if fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).is_ok() {
            nanoseconds = i64::from_str_radix(&hex_digest(&bytes)[..7], 16).expect("hexadecimal digits");
        }
    }
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("the time of a file");
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nstaff:x:50:app\n";
const CREATED: &str = "2001-02-03T04:05:06Z";

/// Makes an OCI image layout of a small image from Debian's busybox-static, and returns the digest of its one layer
/// uncompressed. `extra` adds to its configuration: OCI names such as `OnBuild` inside `config`, lower-case ones beside it.
pub(crate) fn base_image(layout: &Path, extra: &toml::Table) -> String {
    let layer = base_layer();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the folder of blobs");
    let put = |bytes: &[u8], media_type: &str| {
        let digest = hex_digest(bytes);
        fs::write(blobs.join(&digest), bytes).expect("a blob");
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let diff_id = format!("sha256:{}", hex_digest(&layer));
    let mut config = json!({
        "architecture": "amd64", "os": "linux", "created": CREATED,
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "BASE_ENV=base"], "Cmd": ["/bin/sh"], "Labels": {"base": "yes"}
        },
        "rootfs": {"type": "layers", "diff_ids": [&diff_id]},
        "history": [{"created": CREATED, "created_by": "base"}],
    });
    for (key, value) in extra {
        let value = serde_json::to_value(value).expect("a table is JSON too");
        if key.starts_with(char::is_uppercase) {
            config["config"][key] = value;
        } else {
            config[key] = value;
        }
    }
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let layer = put(&compress(&layer, Some("gz")), "application/vnd.oci.image.layer.v1.tar+gzip");
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
    let mut manifest = put(manifest.to_string().as_bytes(), manifest_type);
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).expect("the index");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the layout's mark");
    diff_id
}

/// /bin/sh and friends, three users, no more.
fn base_layer() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|path| path.exists());
    let busybox = busybox.expect("the Debian package busybox-static is installed");
    let applets = Command::new(&busybox).arg("--list").output().expect("busybox can be run").stdout;
    let mut builder = tar::Builder::new(Vec::new());
    let folder =
        |mode: &str, owner| File { mode: Some(mode.to_owned()), uid: Some(owner), gid: Some(owner), ..File::default() };
    for name in ["bin/", "dev/", "etc/", "home/", "proc/", "sys/", "usr/", "usr/bin/", "var/", "var/lib/", "srv/"] {
        append(&mut builder, name, &folder("0755", 0));
    }
    append(&mut builder, "home/app/", &folder("0755", 1000));
    append(&mut builder, "root/", &folder("0700", 0));
    append(&mut builder, "tmp/", &folder("1777", 0));
    let link = |target: &str| File { symlink: Some(target.to_owned()), ..File::default() };
    append(&mut builder, "srv/link", &link("/var/lib"));
    let base_file = ("etc/base-file", "from the base image\n");
    for (name, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP), base_file, ("srv/data.txt", "base data\n")] {
        append(&mut builder, name, &File { text: Some(text.to_owned()), ..File::default() });
    }
    let mut header = tar::Header::new_ustar();
    let program = fs::read(&busybox).expect("busybox can be read");
    header.set_path("bin/busybox").expect("a short path");
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MODIFIED.unsigned_abs());
    header.set_cksum();
    builder.append(&header, program.as_slice()).expect("writing to memory");
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
        append(&mut builder, &format!("bin/{applet}"), &link("busybox"));
    }
    builder.into_inner().expect("writing to memory")
}
