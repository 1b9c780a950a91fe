//! The cache tells the truth: whatever was built before, a build gives the image that a build from nothing gives, bit
//! for bit, and does what a plan made before it says.
//!
//! Random projects are built, edited and built again in one store, and then once in an empty one. The case with a given
//! number is always the same. `RBUILD_TRUTH_CASES` says how many there are, `RBUILD_TRUTH_FIRST` the number of the first.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_core::exec::{BuildOptions, Cancel, Forecast, NamedContext, Outlook, build, forecast};
use rbuild_core::plan::NetworkChoice;
use rbuild_core::progress::{Event, Events, StepEnd};
use support::{Bench, is_root};

/// How many cases there are unless the environment says otherwise.
const CASES: usize = 300;
/// How many cases are built at the same time, each in its own store and folder.
const WORKERS: usize = 2;
/// The time of all that is made: seconds.
const EPOCH: i64 = 1_700_000_000;

/// Numbers that look random and are not: `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }
}

const PATHS: [&str; 9] = ["b", "dir/c", "dir/d", "dir/sub/e", "other/f", "x.log", "dir/y.log", "link", "t.tar"];
const IGNORED: [&str; 6] = ["*.log", "dir/sub", "**/d", "!dir/d", "other", "**/*.log"];
const SOURCES: [&str; 11] = ["a", "dir", "dir/", "*.log", "d*", "a b", ".", "other/f", "link", "dir/c", "t.tar"];
const DESTINATIONS: [&str; 6] = ["/x/", "/y/", "./", "/x/z", "/app/", "/x/z/"];
const COPY_FLAGS: [&str; 8] = ["", "", "", "--chmod=700 ", "--chown=1:2 ", "--link ", "--parents ", "--exclude=*.log "];
const COMMANDS: [&str; 14] = [
    "cat /x/* > /out 2>/dev/null; true",
    "find /x /y /app -type f 2>/dev/null | sort | xargs cat > /sum 2>/dev/null; true",
    "find /x /y /app 2>/dev/null | sort | xargs stat -c '%n %a %u:%g' > /modes 2>/dev/null; true",
    "echo $ONE $TWO > /vars; true",
    "mkdir -p made/$ONE && echo hi > made/$ONE/f; true",
    "rm -rf /x/z /y; true",
    "wc -c < /x/a > /length; true",
    "ln -sf /out /symbolic; ln -f /x/a /x/hard 2>/dev/null; true",
    "chmod 711 /x; chown 3:4 /x/a 2>/dev/null; true",
    "--mount=type=bind,source=dir,target=/m find /m -type f | sort | xargs cat > /bound 2>/dev/null; true",
    "--mount=type=bind,target=/m find /m | sort | xargs stat -c '%n %a' > /bound-modes; true",
    "--mount=type=bind,from=s0,source=/x,target=/m find /m | sort > /bound-from; cat /m/a >> /bound-from; true",
    "--mount=type=cache,target=/cache echo x >> /cache/log; echo done > /cached; true",
    "--mount=type=cache,target=/cache --mount=type=tmpfs,target=/t cp /x/a /t/ && cat /t/a > /through; true",
];

/// A file of the context: a number that its content is made of, and its mode.
#[derive(Clone, Debug)]
struct File {
    content: usize,
    mode: u32,
}

/// One case of so many has files that make layers of several chunks.
const ONE_LARGE_OF: usize = 8;
const LARGE: [&str; 4] = ["b", "dir/d", "dir/sub/e", "other/f"];

/// Something to build.
#[derive(Clone, Debug)]
struct Project {
    is_large: bool,
    files: BTreeMap<&'static str, File>,
    ignored: Vec<&'static str>,
    args: BTreeMap<&'static str, String>,
    /// The lines of each stage's instructions after its FROM.
    stages: Vec<(String, Vec<String>)>,
}

impl Project {
    fn random(random: &mut Random, is_large: bool) -> Self {
        let mut project = Self {
            is_large,
            files: BTreeMap::from([("a", File { content: 0, mode: 0o644 })]),
            ignored: Vec::new(),
            args: BTreeMap::new(),
            stages: Vec::new(),
        };
        for path in PATHS {
            if !random.one_in(4) {
                project.files.insert(path, file(random));
            }
        }
        for _ in 0..random.below(3) {
            project.ignored.push(random.pick(&IGNORED));
        }
        for number in 0..=random.below(3) {
            let base =
                if number > 0 && random.one_in(3) { format!("s{}", random.below(number)) } else { "busybox".into() };
            // Every stage has the file that other stages and mounts rely on.
            let mut lines = vec!["COPY a /x/".to_owned()];
            for _ in 0..=random.below(5) {
                lines.push(instruction(random, number));
            }
            project.stages.push((base, lines));
        }
        project
    }

    fn edit(&mut self, random: &mut Random) {
        match random.below(10) {
            0..=2 => drop(self.files.insert(random.pick(&PATHS), file(random))),
            3 => drop(self.files.remove(random.pick(&PATHS))),
            4 => {
                let (from, to) = (random.pick(&PATHS[..7]), random.pick(&PATHS[..7]));
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to, file);
                }
            }
            5 => drop(self.args.insert(random.pick(&["ONE", "TWO"]), random.below(3).to_string())),
            6 => match self.ignored.pop() {
                Some(_) if random.one_in(2) => {}
                _ => self.ignored.push(random.pick(&IGNORED)),
            },
            7 => {
                let content = random.below(4);
                self.files.entry("a").and_modify(|file| file.content = content);
            }
            _ => {
                let number = random.below(self.stages.len());
                let at = 1 + random.below(self.stages[number].1.len());
                let line = instruction(random, number);
                let lines = &mut self.stages[number].1;
                match random.below(3) {
                    0 => lines.insert(at, line),
                    1 if at < lines.len() => lines[at] = line,
                    _ if at < lines.len() => drop(lines.remove(at)),
                    _ => lines.push(line),
                }
            }
        }
    }

    fn dockerfile(&self) -> String {
        let mut text = String::new();
        for (number, (base, lines)) in self.stages.iter().enumerate() {
            writeln!(text, "FROM {base} AS s{number}\n{}", lines.join("\n")).expect("a string takes all");
        }
        text
    }

    /// Makes the context's folder what the project says.
    fn write(&self, folder: &Path) {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).expect("folder");
        fs::write(folder.join("Dockerfile"), self.dockerfile()).expect("write");
        // The project's own description is no input of a build.
        let ignored = [&["Dockerfile", ".dockerignore"], self.ignored.as_slice()].concat();
        fs::write(folder.join(".dockerignore"), ignored.join("\n")).expect("write");
        for (name, file) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("folder");
            if path.ends_with("link") {
                symlink(["a", "dir", "/nowhere", "dir/c"][file.content], &path).expect("link");
                continue;
            }
            if path.ends_with("t.tar") {
                fs::write(&path, archive(file.content)).expect("write");
            } else if self.is_large && LARGE.contains(name) {
                let lines: String = (0..90_000).map(|line| format!("{} {line}\n", file.content)).collect();
                fs::write(&path, lines).expect("write");
            } else {
                fs::write(&path, format!("{}\n", file.content)).expect("write");
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).expect("mode");
        }
    }
}

fn file(random: &mut Random) -> File {
    File { content: random.below(4), mode: [0o644, 0o644, 0o755, 0o600][random.below(4)] }
}

fn archive(content: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let text = content.to_string();
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o640);
    header.set_mtime(1_600_000_000);
    builder.append_data(&mut header, "inside", text.as_bytes()).expect("append");
    builder.into_inner().expect("finish")
}

/// A line of a stage with that number.
fn instruction(random: &mut Random, stage: usize) -> String {
    let number = random.below(3);
    match random.below(16) {
        0..=4 => {
            let flags = random.pick(&COPY_FLAGS);
            format!("COPY {flags}{} {}", random.pick(&SOURCES), random.pick(&DESTINATIONS))
        }
        5 => format!("ADD {} {}", random.pick(&["dir", "t.tar", "a"]), random.pick(&["/added/", "/x/"])),
        6 if stage > 0 => {
            let flags = random.pick(&["", "--link ", "--chown=5:6 "]);
            format!("COPY {flags}--from=s{} /x /from/", random.below(stage))
        }
        7 => format!("COPY <<EOF /x/here\n{number} $ONE\nEOF"),
        8 => format!("RUN <<EOF\necho {number} $TWO > /here\nEOF"),
        9 => format!("ARG {}={number}", random.pick(&["ONE", "TWO"])),
        10 => format!("ENV {}={}", random.pick(&["ONE", "TWO"]), random.pick(&["0", "1", "$ONE-x", "$TWO"])),
        11 => format!("WORKDIR {}", random.pick(&["/app", "sub", "/w/$ONE", "/"])),
        12 if random.one_in(3) => format!("USER {}", random.pick(&["app", "root", "7:8"])),
        _ => {
            let command = random.pick(&COMMANDS);
            if stage == 0 && command.contains("from=s0") { "RUN true".to_owned() } else { format!("RUN {command}") }
        }
    }
}

/// What all cases came to.
#[derive(Default)]
struct Counts {
    images: AtomicUsize,
    failures: AtomicUsize,
    cached: AtomicUsize,
    done: AtomicUsize,
    unchanged: AtomicUsize,
}

impl Counts {
    fn take(&self, ends: &Ends) {
        for end in ends.values() {
            let counter = match end {
                StepEnd::Cached => &self.cached,
                StepEnd::Done => &self.done,
                StepEnd::Unchanged => &self.unchanged,
                StepEnd::Failed | StepEnd::Cancelled => continue,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a build of a project is told.
fn options(project: &Project, store: &Path, context: &Path, base: &Path) -> BuildOptions {
    let mut options = BuildOptions::new(store, context);
    let layout = NamedContext::Layout { path: base.to_owned(), tag: None, digest: None };
    options.named_contexts.insert("busybox".to_owned(), layout);
    options.build_args = project.args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    options.network = NetworkChoice::None;
    options.epoch = Some(EPOCH);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    options.now = i64::try_from(now).expect("not so far in the future");
    options
}

/// How a build's steps ended, by their numbers.
type Ends = BTreeMap<usize, StepEnd>;

/// Builds; gives the digest of the manifest, or what went wrong, and how the steps ended.
fn built(options: &BuildOptions) -> (Result<String, String>, Ends) {
    let ends: Arc<Mutex<Ends>> = Arc::default();
    let noted = Arc::clone(&ends);
    let events: Events = Arc::new(move |event: Event| {
        if let Event::StepEnded { step, end, .. } = event {
            noted.lock().expect("no other holder panics").insert(step.0, end);
        }
    });
    let result = match build(options, events, &Cancel::new()) {
        Ok(result) => Ok(result.manifest.expect("an image was asked for").digest.to_string()),
        Err(error) => Err(format!("{error}: {:?}", error.kind)),
    };
    let ends = ends.lock().expect("no other holder panics").clone();
    (result, ends)
}

/// Checks that a build did what was planned.
fn agrees(plan: &Forecast, ends: &Ends) -> Result<(), String> {
    for (number, step) in plan.steps.iter().enumerate() {
        let Some(end) = ends.get(&number) else { continue };
        // Of two steps that are the same, the second may take what the first gave.
        let twice = plan.steps.iter().filter(|other| other.info.name == step.info.name).count() > 1;
        let agrees = match (&step.outlook, end) {
            (Outlook::Depends, _) | (_, StepEnd::Failed | StepEnd::Cancelled) => true,
            (Outlook::Cached, end) => *end == StepEnd::Cached,
            (Outlook::Runs(_), end) => *end != StepEnd::Cached || twice,
        };
        if !agrees {
            return Err(format!("the plan says {:?} of `{}`, which ended {end:?}", step.outlook, step.info.name));
        }
    }
    Ok(())
}

/// Builds a case's versions in the store of its worker, and the last one from nothing.
fn check(number: usize, folder: &Path, base: &Path, counts: &Arc<Counts>) {
    let mut random = Random(number as u64);
    let (store, context) = (folder.join("store"), folder.join("context"));
    let mut history = vec![Project::random(&mut random, number.is_multiple_of(ONE_LARGE_OF))];
    for _ in 0..=random.below(3) {
        // Going back finds results that are not the last ones.
        let mut next = history[if random.one_in(4) { 0 } else { history.len() - 1 }].clone();
        for _ in 0..=random.below(2) {
            next.edit(&mut random);
        }
        history.push(next);
    }
    let mut cached = Err(String::new());
    let mut disagreement = Ok(());
    for project in &history {
        project.write(&context);
        let options = options(project, &store, &context, base);
        let quiet: Events = Arc::new(|_: Event| {});
        let plan = forecast(&options, quiet, &Cancel::new());
        let (result, ends) = built(&options);
        disagreement = match &plan {
            Ok(plan) => disagreement.and(agrees(plan, &ends)),
            Err(error) if result.is_ok() => Err(format!("there is an image, and the plan fails: {error}")),
            Err(_) => disagreement,
        };
        counts.take(&ends);
        cached = result;
    }
    let last = history.last().expect("there is a first");
    let empty = folder.join("empty");
    let _ = fs::remove_dir_all(&empty);
    let (clean, _) = built(&options(last, &empty, &context, base));
    match (&cached, &clean) {
        (Ok(one), Ok(other)) if one == other && disagreement.is_ok() => counts.images.fetch_add(1, Ordering::Relaxed),
        (Err(_), Err(_)) if disagreement.is_ok() => counts.failures.fetch_add(1, Ordering::Relaxed),
        _ => {
            let versions: Vec<String> = history
                .iter()
                .map(|p| {
                    format!("{}\nignored {:?}, arguments {:?}, files {:?}", p.dockerfile(), p.ignored, p.args, p.files)
                })
                .collect();
            panic!(
                "case {number}: from the cache {cached:?}, from nothing {clean:?}, {disagreement:?}\n{}",
                versions.join("\n---\n")
            );
        }
    };
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn cached_images_are_those_of_clean_builds() {
    if !is_root("cached_images_are_those_of_clean_builds") {
        return;
    }
    let (first, cases) = (setting("RBUILD_TRUTH_FIRST", 0), setting("RBUILD_TRUTH_CASES", CASES));
    let bench = Bench::new();
    let base = bench.path("busybox");
    let counts = Arc::new(Counts::default());
    let folders: Vec<PathBuf> = (0..WORKERS).map(|worker| bench.path(&format!("worker-{worker}"))).collect();
    std::thread::scope(|scope| {
        for (worker, folder) in folders.iter().enumerate() {
            let (base, counts) = (&base, &counts);
            scope.spawn(move || {
                for number in (first..first + cases).filter(|number| number % WORKERS == worker) {
                    check(number, folder, base, counts);
                }
            });
        }
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (images, failures) = (count(&counts.images), count(&counts.failures));
    let (cached, done, unchanged) = (count(&counts.cached), count(&counts.done), count(&counts.unchanged));
    eprintln!("{images} images, {failures} failed builds; steps: {cached} cached, {done} done, {unchanged} unchanged");
    assert_eq!(images + failures, cases);
    // A test that builds nothing, or finds nothing in the cache, would say nothing.
    assert!(images * 2 > cases && cached > done / 4 && done > cases, "too little happened");
    assert!(unchanged > 0 || cases < CASES, "no step gave the same result again");
}
