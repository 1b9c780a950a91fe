use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;
use crate::image::assemble::{AssembleOptions, MediaTypes, assemble_index, tests::small_image};

fn options(format: ArchiveFormat, names: &[&str]) -> ArchiveOptions {
    ArchiveOptions { format, names: names.iter().map(|n| (*n).to_owned()).collect(), ..Default::default() }
}

fn members(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let read = |mut entry: tar::Entry<'_, &[u8]>| {
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), content)
    };
    archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn the_same_image_gives_the_same_archive() {
    let archives: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let (_dir, store, image) = small_image(MediaTypes::Oci);
            let mut bytes = Vec::new();
            write_archive(&store, &image, &options(ArchiveFormat::Docker, &["docker.io/library/app:v1"]), &mut bytes)
                .unwrap();
            bytes
        })
        .collect();
    assert_eq!(archives[0], archives[1]);
    let members = members(&archives[0]);
    let docker: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    assert_eq!(docker[0]["RepoTags"], json!(["app:v1"]));
    assert_eq!(docker[0]["Layers"].as_array().unwrap().len(), 3);
    for path in docker[0]["Layers"].as_array().unwrap().iter().chain([&docker[0]["Config"]]) {
        assert!(members.contains_key(path.as_str().unwrap()));
    }
    let index: Value = serde_json::from_slice(&members["index.json"]).unwrap();
    assert_eq!(index["manifests"][0]["annotations"][IMAGE_NAME], "docker.io/library/app:v1");
    assert_eq!(index["manifests"][0]["annotations"][REF_NAME], "v1");
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
    assert_eq!(members["oci-layout"], LAYOUT_FILE.as_bytes());
}

#[test]
fn an_index_has_all_its_images_but_docker_takes_one() {
    let (_dir, store, image) = small_image(MediaTypes::Oci);
    let mut other = image.clone();
    other.platform = Some(Platform::new("linux", "arm64", ""));
    let one = assemble_index(&store, std::slice::from_ref(&image), &AssembleOptions::default()).unwrap();
    let index = assemble_index(&store, &[image.clone(), other], &AssembleOptions::default()).unwrap();
    let mut bytes = Vec::new();
    write_archive(&store, &index, &options(ArchiveFormat::Oci, &[]), &mut bytes).unwrap();
    assert!(members(&bytes).contains_key(&format!("blobs/sha256/{}", image.digest.hex())));
    write_archive(&store, &one, &options(ArchiveFormat::Docker, &[]), &mut Vec::new()).unwrap();
}

#[test]
fn nothing_is_left_of_an_archive_that_failed() {
    let (dir, store, image) = small_image(MediaTypes::Oci);
    let manifest = super::super::read_manifest(&store.read_blob(&image, 10_000).unwrap()).unwrap();
    fs::write(store.blob_path(&manifest.layers[1].digest), "sEcond layer").unwrap();
    let target = dir.path().join("out/image.tar");
    // Another process, which did not write the blob itself.
    let store = Store::open(store.root()).unwrap();
    let error = export_archive(&store, &image, &options(ArchiveFormat::Oci, &[]), &target).unwrap_err();
    assert!(matches!(error, ImageError::Io { action: "read", .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_dir, store, image) = small_image(MediaTypes::Oci);
    let error = write_archive(&store, &image, &options(ArchiveFormat::Oci, &[]), &mut Full).unwrap_err();
    assert!(matches!(error, ImageError::Write { what: "archive", .. }), "{error}");
}

#[test]
fn folders_share_bytes_and_keep_other_images() {
    let (dir, store, image) = small_image(MediaTypes::Oci);
    let target = dir.path().join("layout");
    for names in [&["docker.io/library/a:1"][..], &["docker.io/library/b:1", "docker.io/library/a:1"], &[], &[]] {
        export_folder(&store, &image, &options(ArchiveFormat::Oci, names), &target).unwrap();
    }
    let index: Value = serde_json::from_slice(&fs::read(target.join("index.json")).unwrap()).unwrap();
    let names: Vec<_> =
        index["manifests"].as_array().unwrap().iter().map(|e| e["annotations"][IMAGE_NAME].clone()).collect();
    assert_eq!(names, [json!("docker.io/library/b:1"), json!("docker.io/library/a:1"), Value::Null]);
    let blob = target.join("blobs/sha256").join(image.digest.hex());
    assert_eq!(fs::read(&blob).unwrap(), store.read_blob(&image, 10_000).unwrap());
    let mut all: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    all.sort();
    assert_eq!(all, ["blobs", "index.json", "oci-layout"]);
    assert_eq!(fs::read_dir(target.join("blobs/sha256")).unwrap().count(), 4);
    // A torn blob of an earlier export is replaced.
    let other = fs::metadata(&blob).unwrap().ino();
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "torn").unwrap();
    export_folder(&store, &image, &options(ArchiveFormat::Oci, &[]), &target).unwrap();
    assert_eq!(fs::read(&blob).unwrap(), store.read_blob(&image, 10_000).unwrap());
    assert!(other > 0);
}

#[test]
fn names() {
    for (name, tag, short) in [
        ("docker.io/library/app:latest", "latest", "app:latest"),
        ("docker.io/me/app:v1", "v1", "me/app:v1"),
        ("localhost:5000/app", "latest", "localhost:5000/app"),
        ("reg.example.com/app:1", "1", "reg.example.com/app:1"),
    ] {
        assert_eq!((tag_of(name), familiar(name)), (tag, short));
    }
}

/// Runs a tool of the machine; `None` where it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Err(error) => {
            println!("skipped: can't run `{program}`: {error}");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        }
    }
}

#[test]
fn other_tools_read_archives_and_the_store() {
    let (dir, store, image) = small_image(MediaTypes::Oci);
    let target = dir.path().join("image.tar");
    let path = target.to_str().unwrap();
    export_archive(&store, &image, &options(ArchiveFormat::Docker, &["docker.io/library/app:v1"]), &target).unwrap();
    store.tag("docker.io/library/app:v1", &image).unwrap();
    let script = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]): print(m.name, m.uid, m.mtime, oct(m.mode))";
    if let Some(text) = run("python3", &["-c", script, path]) {
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2 + 4 + 3, "{text}");
        assert_eq!((lines[0], lines[6]), ("blobs 0 0 0o755", "index.json 0 0 0o644"));
    }
    for source in [
        format!("oci-archive:{path}:v1"),
        format!("docker-archive:{path}:app:v1"),
        format!("oci:{}:docker.io/library/app:v1", store.root().display()),
    ] {
        if let Some(text) = run("skopeo", &["inspect", &source]) {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["Architecture"], "amd64", "{source}");
        }
    }
}

#[test]
fn other_tools_read_the_layers_of_archives() {
    use crate::image::{AssembleOptions, assemble};
    use crate::layer::{Compression, encode};
    use crate::oci::ImageConfig;
    use crate::tree::{Change, Content, Entry, Metadata, Node, TreePath};

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let entry = Entry {
        path: TreePath::clean(b"file"),
        node: Node::File { size: 4 },
        metadata: Metadata { mode: 0o644, ..Metadata::default() },
    };
    let change = Change { entry, content: Content::Bytes(b"text"[..].into()) };
    let mut writer = store.hashed_blob_writer().unwrap();
    let encoded = encode(&vec![change].into(), Compression::Gzip { level: 6 }, &mut writer).unwrap();
    let layer = writer.finish_with(encoded.media_type, encoded.digest, encoded.size).unwrap();
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64", ""));
    config.rootfs.diff_ids.push(encoded.diff_id);
    for media_types in [MediaTypes::Oci, MediaTypes::Docker] {
        let options = AssembleOptions { media_types, ..AssembleOptions::default() };
        let image = assemble(&store, &config, std::slice::from_ref(&layer), &options).unwrap();
        let archive = dir.path().join(format!("{media_types:?}.tar"));
        let names = self::options(ArchiveFormat::Docker, &["docker.io/library/app:v1"]);
        export_archive(&store, &image, &names, &archive).unwrap();
        store.tag("docker.io/library/app:v1", &image).unwrap();
        let (archive, root) = (archive.display(), store.root().display());
        let sources = [
            format!("docker-archive:{archive}:app:v1"),
            format!("oci-archive:{archive}:v1"),
            format!("oci:{root}:docker.io/library/app:v1"),
        ];
        // Such tools look for OCI's media types in a layout.
        let readable = if media_types == MediaTypes::Oci { sources.len() } else { 1 };
        for (number, source) in sources[..readable].iter().enumerate() {
            let copy = dir.path().join(format!("{media_types:?}-{number}"));
            let target = format!("oci:{}:copy", copy.display());
            let arguments = ["--insecure-policy", "copy", "--quiet", source, &target];
            if run("skopeo", &arguments).is_none() {
                continue;
            }
            let copied = crate::image::LayoutSource::open(&copy).unwrap();
            let platform = Platform::new("linux", "amd64", "");
            let copied = copied.image(&crate::image::LayoutImage::Default, &platform).unwrap();
            assert_eq!(copied.config.rootfs.diff_ids, [encoded.diff_id], "{source}");
        }
    }
}
