//! A store that was damaged heals: the same command gives the same image.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_core::oci::Digest;
use support::{Bench, RunCommand, digest_in};

const DOCKERFILE: &str = "FROM busybox AS made\n\
    RUN mkdir /data && echo one > /data/one && ln /data/one /data/two\n\
    COPY files /files\n\
    FROM busybox\n\
    COPY --from=made /data /data\n\
    COPY --from=made /files /files\n\
    RUN cat /data/one /files/a > /both\n";

fn build(bench: &Bench, context: &Path, output: &Path) -> String {
    let _ = fs::remove_dir_all(output);
    let (file, output) = (bench.path("id"), format!("type=oci,tar=false,dest={}", output.display()));
    let mut command =
        bench.build_command(context, &["-t", "healed", "-o", &output, "--iidfile", &file.display().to_string()]);
    command.env("SOURCE_DATE_EPOCH", "1700000000").ran().ok();
    digest_in(&file)
}

/// Every file below a folder of the store.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let kind = entry.file_type().expect("kind");
            if kind.is_dir() && entry.file_name() != "fs" {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// What is done to a file, and what it is called.
type Damage = (&'static str, fn(&Path));

fn damages() -> [Damage; 4] {
    fn write(path: &Path, bytes: &[u8]) {
        // Objects may be read-only, and shared with what they were made from.
        fs::remove_file(path).expect("remove");
        fs::write(path, bytes).expect("write");
    }
    [
        ("a flipped bit", |path| {
            let mut bytes = fs::read(path).expect("read");
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 4;
            }
            write(path, &bytes);
        }),
        ("a torn end", |path| {
            let bytes = fs::read(path).expect("read");
            write(path, &bytes[..bytes.len() / 2]);
        }),
        ("nothing in it", |path| write(path, b"")),
        ("gone", |path| fs::remove_file(path).expect("remove")),
    ]
}

fn check_blobs(layout: &Path) {
    for blob in files(&layout.join("blobs/sha256")) {
        let bytes = fs::read(&blob).expect("blob");
        assert_eq!(Digest::of(&bytes).hex(), blob.file_name().expect("named").to_string_lossy(), "{}", blob.display());
    }
}

#[test]
fn damaged_objects_are_made_again() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", DOCKERFILE), ("files/a", "a"), ("files/b/c", "c")]);
    let (store, output) = (bench.path("store"), bench.path("output"));
    let wanted = build(&bench, &context, &output);
    check_blobs(&output);
    for kind in ["blobs", "layers", "steps", "notes", "contexts", "builds"] {
        for (damage, apply) in damages() {
            let damaged = files(&store.join(kind));
            assert!(!damaged.is_empty(), "{kind}");
            for file in &damaged {
                apply(file);
            }
            assert_eq!(build(&bench, &context, &output), wanted, "{kind}: {damage}");
            check_blobs(&output);
            let ran = bench.rbuild().args(["run", "healed", "cat", "/both"]).ran().ok();
            assert_eq!(ran.stdout, "one\na", "{kind}: {damage}");
        }
    }
}

#[test]
fn damaged_lists_of_names_are_no_end() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", DOCKERFILE), ("files/a", "a"), ("files/b/c", "c")]);
    let (store, output) = (bench.path("store"), bench.path("output"));
    let wanted = build(&bench, &context, &output);
    for name in ["index.json", "oci-layout"] {
        for (damage, apply) in damages() {
            apply(&store.join(name));
            assert_eq!(build(&bench, &context, &output), wanted, "{name}: {damage}");
        }
    }
}

/// What a big layer takes over from the blob of the last build is checked before.
#[test]
fn damaged_chunks_are_compressed_again() {
    let text =
        |seed: u32| -> String { (0..300_000_u32).map(|n| format!("{}\n", n.wrapping_mul(seed) % 9973)).collect() };
    let (one, two, edited) = (text(7), text(11), text(13));
    let with = |bench: &Bench, two: &str| {
        bench
            .context("context", &[("Dockerfile", "FROM busybox\nCOPY files /f\n"), ("files/1", &one), ("files/2", two)])
    };
    let fresh = Bench::new();
    let wanted = build(&fresh, &with(&fresh, &edited), &fresh.path("output"));
    for (damage, apply) in damages() {
        for kind in ["chunks-gzip", "blobs/sha256/"] {
            let bench = Bench::new();
            let (store, output) = (bench.path("store"), bench.path("output"));
            let first = build(&bench, &with(&bench, &two), &output);
            let mut damaged = files(&store.join("layers"));
            damaged.extend(files(&store.join("blobs")));
            damaged.retain(|file| file.to_string_lossy().contains(kind));
            assert!(!damaged.is_empty(), "{kind}");
            damaged.iter().for_each(|file| apply(file));
            assert_ne!(first, wanted);
            assert_eq!(build(&bench, &with(&bench, &edited), &output), wanted, "{kind}: {damage}");
            check_blobs(&output);
        }
    }
}
