use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::image::assemble::{MediaTypes, tests::small_image};
use crate::image::{ArchiveFormat, ArchiveOptions, export_archive, export_folder};

fn platform() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn options(names: &[&str]) -> ArchiveOptions {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    ArchiveOptions { format: ArchiveFormat::Oci, names, ..ArchiveOptions::default() }
}

#[test]
fn folders_tar_files_and_the_store_itself_are_layouts() {
    let (dir, store, image) = small_image(MediaTypes::Oci);
    let (folder, tar) = (dir.path().join("folder"), dir.path().join("image.tar"));
    export_folder(&store, &image, &options(&["docker.io/library/app:v1"]), &folder).unwrap();
    export_archive(&store, &image, &options(&["docker.io/library/app:v1"]), &tar).unwrap();
    store.tag("docker.io/library/app:v1", &image).unwrap();
    for path in [&folder, &tar, store.root()] {
        let layout = LayoutSource::open(path).unwrap();
        for name in [LayoutImage::Default, LayoutImage::Tag("v1".into()), LayoutImage::Digest(image.digest)] {
            let found = layout.image(&name, &platform()).unwrap();
            assert_eq!(found.descriptor.digest, image.digest, "{}", path.display());
        }
        let error = layout.find(&LayoutImage::Tag("v2".into())).unwrap_err();
        assert!(error.to_string().contains("has no image `v2`, only `"), "{error}");
        assert!(layout.find(&LayoutImage::Digest(Digest::of(b"?"))).is_err());
        let other = Store::open(&dir.path().join("other")).unwrap();
        let imported = layout.import(&LayoutImage::Default, &platform(), &other).unwrap();
        assert_eq!(crate::image::load_image(&other, &image, &platform()).unwrap(), imported);
        assert_eq!(imported.manifest.layers.len(), 3);
        other.verify_blob(&imported.manifest.layers[1]).unwrap();
    }
}

#[test]
fn links_in_place_of_files_are_refused() {
    let (dir, store, image) = small_image(MediaTypes::Oci);
    let folder = dir.path().join("folder");
    export_folder(&store, &image, &options(&["a:b"]), &folder).unwrap();
    let blobs = folder.join("blobs/sha256");
    let manifest = blobs.join(image.digest.hex());
    let away = dir.path().join("away");
    fs::rename(&manifest, &away).unwrap();
    symlink(&away, &manifest).unwrap();
    let layout = LayoutSource::open(&folder).unwrap();
    assert!(layout.image(&LayoutImage::Default, &platform()).is_err());
    fs::remove_file(&manifest).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &manifest, rustix::fs::Mode::RUSR).unwrap();
    assert!(layout.image(&LayoutImage::Default, &platform()).is_err());
    fs::remove_file(&manifest).unwrap();
    fs::rename(&away, &manifest).unwrap();
    layout.image(&LayoutImage::Default, &platform()).unwrap();
    fs::rename(&blobs, dir.path().join("blobs")).unwrap();
    symlink(dir.path().join("blobs"), &blobs).unwrap();
    assert!(layout.image(&LayoutImage::Default, &platform()).is_err());
    symlink("/etc/passwd", folder.join("index.new")).unwrap();
    fs::rename(folder.join("index.new"), folder.join("index.json")).unwrap();
    assert!(LayoutSource::open(&folder).is_err());
}

#[test]
fn damaged_blobs_are_noticed_and_not_copied() {
    let (dir, store, image) = small_image(MediaTypes::Oci);
    let folder = dir.path().join("folder");
    export_folder(&store, &image, &options(&[]), &folder).unwrap();
    let layout = LayoutSource::open(&folder).unwrap();
    let found = layout.image(&LayoutImage::Default, &platform()).unwrap();
    let layer = &found.manifest.layers[0];
    let path = folder.join("blobs/sha256").join(layer.digest.hex());
    let other = Store::open(&dir.path().join("other")).unwrap();
    for bytes in [&b"First layer"[..], b"first", b"first layer and more"] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert!(matches!(layout.copy_blob(&other, layer), Err(ImageError::LayoutBlob { .. })));
        assert!(!other.has_blob(&layer.digest, layer.size));
    }
}

#[test]
fn says_what_is_no_layout() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name)
    };
    for (path, want) in [
        (dir.path().to_owned(), "it has no `oci-layout`"),
        (file("empty", b""), "it is empty"),
        (file("text", &[b'x'; 600]), "it can't be read as a tar file"),
        (file("gz", b"\x1f\x8b\x08\0"), "it is compressed"),
        ("/dev/null".into(), "neither a folder nor a file"),
    ] {
        let error = LayoutSource::open(&path).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}
