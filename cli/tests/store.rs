//! One store under many builds at once, under pruning and kills, and on a small disk with a limit.
//!
//! Each test has a long form, by the number of builds in `RBUILD_TEST_BUILDS`; it prints its figures.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Bench, RunCommand, clean_command, digest_in, have, is_root};

/// How many builds each builder makes.
fn builds(short: u64) -> u64 {
    std::env::var("RBUILD_TEST_BUILDS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const BUILDERS: u64 = 16;
const VARIANTS: u64 = 6;

/// A Dockerfile that shares some of its steps with those of other variants.
fn variant(number: u64) -> String {
    format!(
        "FROM busybox AS tools\n\
         RUN mkdir /tools && echo {} > /tools/shared\n\
         FROM busybox\n\
         COPY files /files\n\
         RUN --mount=type=cache,id=pool-{},target=/pool echo {number} >> /pool/seen; echo {number} > /own\n\
         COPY --from=tools /tools /tools\n\
         RUN cat /tools/shared /own /files/0 > /all\n",
        number % 2,
        number % 3,
    )
}

fn build_command(bench: &Bench, context: &Path, tag: &str, id_file: &Path) -> Command {
    let id_file = id_file.display().to_string();
    let mut command = bench.build_command(context, &["-t", tag, "--iidfile", &id_file]);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

/// What happened to all builders.
#[derive(Default)]
struct Figures {
    done: AtomicU64,
    killed: AtomicU64,
    pruned: AtomicU64,
}

/// Builds again and again; every fifth build is killed on its way.
fn builder(bench: &Bench, number: u64, contexts: &[PathBuf], wanted: &Mutex<BTreeMap<u64, String>>, figures: &Figures) {
    let mut numbers = Numbers(number + 1);
    let id_file = bench.path(&format!("id-{number}"));
    for _ in 0..builds(4) {
        let chosen = numbers.below(VARIANTS);
        let context = &contexts[usize::try_from(chosen).expect("a small number")];
        let tag = format!("app-{}", numbers.below(4));
        if numbers.below(5) == 0 {
            let mut command = build_command(bench, context, &tag, &id_file);
            let mut victim = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild starts");
            std::thread::sleep(Duration::from_millis(numbers.below(300)));
            victim.kill().expect("kill");
            victim.wait().expect("wait");
            figures.killed.fetch_add(1, Ordering::Relaxed);
        }
        let ran = build_command(bench, context, &tag, &id_file).ran();
        assert_eq!(ran.code, 0, "builder {number}, variant {chosen}:\n{}", ran.stderr);
        assert!(!ran.stderr.contains("damaged"), "builder {number}, variant {chosen}:\n{}", ran.stderr);
        let digest = digest_in(&id_file);
        let first = wanted.lock().expect("no builder panics with it").entry(chosen).or_insert(digest.clone()).clone();
        assert_eq!(digest, first, "builder {number}, variant {chosen}");
        figures.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Prunes until told to stop.
fn pruner(bench: &Bench, stop: &AtomicBool, figures: &Figures) {
    let kinds: [&[&str]; 4] = [&[], &["--all"], &["--keep", "4m"], &["--older-than", "1s"]];
    for kind in kinds.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let ran = bench.rbuild().args(["cache", "prune"]).args(*kind).ran();
        assert_eq!(ran.code, 0, "prune {kind:?}:\n{}", ran.stderr);
        figures.pruned.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sets the flag when the last builder is done, also when one failed.
struct StopsWith<'a>(&'a AtomicBool);

impl Drop for StopsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn many_builds_share_a_store_that_is_pruned_meanwhile() {
    let bench = Bench::new();
    let contexts: Vec<PathBuf> = (0..VARIANTS)
        .map(|number| {
            let context = bench.context(&format!("context-{number}"), &[("Dockerfile", &variant(number))]);
            for file in 0..20 {
                let path = context.join(format!("files/{file}"));
                fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
                fs::write(path, format!("{} {file}\n", number % 3).repeat(300)).expect("file");
            }
            context
        })
        .collect();
    let (wanted, stop, figures) = (Mutex::default(), AtomicBool::new(false), Figures::default());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| pruner(&bench, &stop, &figures));
        let _stops = StopsWith(&stop);
        std::thread::scope(|inner| {
            for number in 0..BUILDERS {
                let (bench, contexts, wanted, figures) = (&bench, &contexts, &wanted, &figures);
                inner.spawn(move || builder(bench, number, contexts, wanted, figures));
            }
        });
    });
    let checked = bench.rbuild().args(["cache", "check"]).ran();
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    let left: Vec<_> = fs::read_dir(bench.path("store/tmp")).expect("tmp").filter_map(Result::ok).collect();
    assert!(left.is_empty(), "{left:?}");
    // Named images are whole.
    for number in 0..4 {
        let tag = format!("app-{number}");
        if bench.rbuild().args(["inspect", &tag]).ran().code == 0 {
            let out = format!("type=oci,dest={}", bench.path("again.tar").display());
            let from = bench.context("again", &[("Dockerfile", &format!("FROM {tag}\n"))]);
            bench.build(&from, &["-o", &out]).ok();
        }
    }
    println!(
        "{} builds by {BUILDERS} builders, {} killed, {} prunes, in {:.1} s: {}",
        figures.done.load(Ordering::Relaxed),
        figures.killed.load(Ordering::Relaxed),
        figures.pruned.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64(),
        checked.stdout.trim(),
    );
}

/// A small disk of its own, for as long as this lives.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// An ext4 file system in a file, or a tmpfs where the machine has no loop devices.
    fn new(bench: &Bench) -> Self {
        let (folder, file) = (bench.path("disk"), bench.path("disk.img"));
        fs::create_dir(&folder).expect("folder");
        fs::File::create(&file).and_then(|file| file.set_len(DISK_BYTES)).expect("a file for the disk");
        Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&file).ran().ok();
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&folder).ran();
        if mounted.code != 0 {
            println!("a tmpfs instead of ext4: {}", mounted.stderr.trim());
            let size = format!("size={DISK_BYTES}");
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "rbuild-test"]).arg(&folder).ran().ok();
        }
        Self { folder }
    }

    /// The store's bytes, as `du` counts them.
    fn used(&self) -> u64 {
        let ran = Command::new("du").args(["-s", "--block-size=1"]).arg(self.folder.join("store")).ran();
        ran.stdout.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.folder).ran();
    }
}

const DISK_BYTES: u64 = 512 << 20;
const LIMIT_BYTES: u64 = 300 << 20;

/// Steps of 2 to 13 MB that don't compress, and small ones, in an order that repeats some.
fn varied(numbers: &mut Numbers) -> String {
    let (size, name) = (2 + numbers.below(12), numbers.below(40));
    format!(
        "FROM busybox\n\
         RUN echo {name} > /name\n\
         RUN dd if=/dev/urandom of=/data bs=1M count={size} 2>/dev/null; echo {name} {size}\n\
         COPY Dockerfile /copy\n\
         RUN --mount=type=cache,id=c{},target=/cache head -c 500000 /data > /cache/{size}; ls -l /cache > /list\n",
        name % 3
    )
}

#[test]
fn a_limit_holds_on_a_small_disk() {
    if !is_root("a small disk") || !have("a small disk", &["mkfs.ext4", "mount"]) {
        return;
    }
    let bench = Bench::new();
    let disk = SmallDisk::new(&bench);
    let store = disk.folder.join("store");
    let rbuild = || {
        let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
        command.arg("--root").arg(&store);
        command
    };
    rbuild().args(["cache", "limit", "300m"]).ran().ok();
    let (mut numbers, mut highest) = (Numbers(7), 0);
    let (stop, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = builds(24);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(disk.used(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _stops = StopsWith(&stop);
        for number in 0..count {
            let context = bench.context("context", &[("Dockerfile", &varied(&mut numbers))]);
            let mut command = rbuild();
            command.args(["build", "--progress=plain", "-t", &format!("app:{}", number % 3), "--build-context"]);
            command.arg(format!("busybox=oci-layout://{}", bench.path("busybox").display())).arg(&context);
            let ran = command.ran();
            assert_eq!(ran.code, 0, "build {number}:\n{}", ran.stderr);
            let used = disk.used();
            highest = used.max(highest);
            assert!(used <= LIMIT_BYTES, "{used} bytes after build {number}:\n{}", ran.stderr);
            let counted = rbuild().args(["cache", "du", "--format", "json"]).ran().ok();
            let counted: serde_json::Value = serde_json::from_str(&counted.stdout).expect("JSON");
            assert_eq!(counted["total_bytes"].as_u64(), Some(disk.used()), "after build {number}");
        }
    });
    assert!(highest > LIMIT_BYTES / 2, "{highest}: the limit was never near");
    let checked = rbuild().args(["cache", "check"]).ran();
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    println!(
        "{count} builds; after each at most {} MB of {} MB; {} MB at any moment",
        highest >> 20,
        LIMIT_BYTES >> 20,
        peak.load(Ordering::Relaxed) >> 20
    );
}

#[test]
fn a_full_disk_is_emptied_of_what_no_name_needs() {
    if !is_root("a full disk") || !have("a full disk", &["mount"]) {
        return;
    }
    let bench = Bench::new();
    let folder = bench.path("disk");
    fs::create_dir(&folder).expect("folder");
    Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "rbuild-test"]).arg(&folder).ran().ok();
    let disk = SmallDisk { folder };
    let mut told = 0;
    for number in 0..8_u64 {
        let context = bench.context("context", &[("Dockerfile", "FROM scratch\nCOPY data /data\n")]);
        let mut numbers = Numbers(number);
        let bytes: Vec<u8> = (0..4 << 20).map(|_| u8::try_from(numbers.below(256)).expect("a byte")).collect();
        fs::write(context.join("data"), bytes).expect("data");
        let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
        command.arg("--root").arg(disk.folder.join("store")).args(["build", "--progress=plain", "-t", "app"]);
        let ran = command.arg(&context).ran().ok();
        told += u32::from(ran.stderr.contains("the disk of the store was full"));
    }
    assert!(told > 0, "32 MB fitted on 24 MB");
}
