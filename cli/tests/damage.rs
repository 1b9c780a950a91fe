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

fn write(path: &Path, bytes: &[u8]) {
    // Objects may be read-only, and shared with what they were made from.
    fs::remove_file(path).expect("remove");
    fs::write(path, bytes).expect("write");
}

fn damages() -> [Damage; 4] {
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

/// Marks of removed files are made in a way of their own, which must not look like a change of the layer later.
#[test]
fn a_layer_with_removed_files_is_not_taken_for_damaged() {
    let bench = Bench::new();
    let text = "FROM busybox\nCOPY files /files\nRUN rm -r /files/b /files/a && echo one > /one\n";
    let context = bench.context("context", &[("Dockerfile", text), ("files/a", "a"), ("files/b/c", "c")]);
    build(&bench, &context, &bench.path("output"));
    bench.rbuild().args(["cache", "check"]).ran().ok();
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

/// Every regular file of a store but locks, which hold nothing.
fn all_files(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the store").filter_map(Result::ok) {
            let kind = entry.file_type().expect("kind");
            if kind.is_dir() && entry.file_name() != "locks" {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn build_with(bench: &Bench, context: &Path, flags: &[&str]) -> (String, String) {
    let file = bench.path("id");
    let mut all = vec!["-t", "healed", "--iidfile", file.to_str().expect("a path")];
    all.extend(flags);
    let ran = bench.build_command(context, &all).env("SOURCE_DATE_EPOCH", "1700000000").ran().ok();
    (digest_in(&file), ran.stderr)
}

/// One file after the other is damaged. The next build gives the right image; where it did not notice, a build of
/// everything does, and what neither reads is found by a check.
#[test]
fn any_damaged_file_is_told_and_mended() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", DOCKERFILE), ("files/a", "a"), ("files/b/c", "c")]);
    let store = bench.path("store");
    let (wanted, told) = build_with(&bench, &context, &[]);
    assert!(!told.contains("damaged"), "{told}");
    bench.rbuild().args(["cache", "limit", "10g"]).ran().ok();
    let files = all_files(&store);
    let in_layers = |file: &Path| file.strip_prefix(&store).expect("below the store").starts_with("layers");
    assert!(files.iter().any(|file| in_layers(file) && file.ends_with("fs/bin/busybox")), "{files:#?}");
    let damages = damages();
    let (mut count, mut count_told) = (0, 0);
    for (number, file) in files.iter().enumerate() {
        let name = file.strip_prefix(&store).expect("below the store").display().to_string();
        // All are flipped, and some are damaged in another way too.
        let others = damages.iter().skip(1 + number % 3).take(usize::from(number % 3 == 0));
        for (damage, apply) in damages[..1].iter().chain(others) {
            if !file.exists() {
                continue;
            }
            apply(file);
            let (digest, text) = build_with(&bench, &context, &[]);
            assert_eq!(digest, wanted, "{name}: {damage}");
            let mut told = text.contains("the store was damaged");
            if !told {
                let (digest, text) = build_with(&bench, &context, &["--no-cache"]);
                assert_eq!(digest, wanted, "{name}: {damage}, without cache");
                told = text.contains("the store was damaged");
            }
            let checked = bench.rbuild().args(["cache", "check"]).ran();
            if checked.code != 0 {
                let expected = format!("`{}` is damaged\n", file.display());
                let only = !told && checked.stdout.contains(&expected) && checked.stdout.contains(", 1 problem\n");
                assert!(only, "{name}: {damage}, told: {told}: {}{}", checked.stdout, checked.stderr);
                bench.rbuild().args(["cache", "check", "--repair"]).ran().ok();
                bench.rbuild().args(["cache", "check"]).ran().ok();
            }
            count += 1;
            count_told += usize::from(told);
        }
    }
    println!("{count} damages, {count_told} of them told by a build");
    assert!(count > 50 && count_told > count / 2, "{count} damages, {count_told} told");
    let ran = bench.rbuild().args(["run", "healed", "cat", "/both"]).ran().ok();
    assert_eq!(ran.stdout, "one\na");
}

#[test]
fn a_check_names_what_is_damaged_and_repairs_it() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", DOCKERFILE), ("files/a", "a"), ("files/b/c", "c")]);
    let store = bench.path("store");
    let (wanted, _) = build_with(&bench, &context, &[]);
    let clean = bench.rbuild().args(["cache", "check"]).ran().ok();
    assert!(clean.stdout.contains("0 problems"), "{}", clean.stdout);
    let flipped = |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let times = fs::metadata(path).expect("status").modified().expect("time");
        write(path, &bytes);
        // Bits that rot leave the times as they are.
        fs::File::options().write(true).open(path).expect("open").set_modified(times).expect("time");
    };
    let files = all_files(&store);
    let blob = files.iter().find(|file| file.starts_with(store.join("blobs"))).expect("a blob");
    let busybox = files.iter().find(|file| file.ends_with("fs/bin/busybox")).expect("busybox");
    let step = files.iter().find(|file| file.starts_with(store.join("steps"))).expect("a step");
    for file in [blob, busybox, step] {
        flipped(file);
    }
    let found = bench.rbuild().args(["cache", "check"]).ran();
    assert_eq!(found.code, 1, "{}", found.stdout);
    for text in ["the blob `sha256:", "of the unpacked layer sha256:", "the record `", "3 problems", "--repair"] {
        assert!(found.stdout.contains(text), "`{text}` is not in:\n{}", found.stdout);
    }
    bench.rbuild().args(["cache", "check", "--repair"]).ran().ok();
    bench.rbuild().args(["cache", "check"]).ran().ok();
    assert_eq!(build_with(&bench, &context, &[]).0, wanted);
    assert_eq!(build_with(&bench, &context, &["--no-cache"]).0, wanted);
}
