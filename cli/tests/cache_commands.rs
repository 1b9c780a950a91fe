//! `rbuild cache …` as people use it: what it prints, and what it says when it can't.

mod support;

use std::fs;

use support::{Bench, Ran, RunCommand};

const TWO_CACHES: &str = "FROM busybox
RUN --mount=type=cache,target=/c,id=npm echo one > /c/one
RUN --mount=type=cache,target=/c,id=twice echo two > /c/two
RUN --mount=type=cache,target=/c,id=twice,uid=5 echo two > /c/two
";

fn cache(bench: &Bench, words: &[&str]) -> Ran {
    bench.rbuild().arg("cache").args(words).ran()
}

fn bench_with_caches() -> Bench {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", TWO_CACHES)]);
    bench.build(&context, &["-t", "example"]).ok();
    bench
}

fn ids(bench: &Bench) -> Vec<String> {
    let listed = cache(bench, &["mount", "ls"]).ok().stdout;
    listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn cache_mounts_are_listed_written_read_and_removed() {
    let bench = bench_with_caches();
    assert_eq!(ids(&bench), ["npm", "twice", "twice"]);
    let archive = bench.path("npm.tar");
    let archive = archive.to_str().expect("text");
    cache(&bench, &["mount", "export", "npm", "-o", archive]).ok();
    assert_eq!(cache(&bench, &["mount", "rm", "npm"]).ok().stdout, "npm\n");
    assert_eq!(ids(&bench), ["twice", "twice"]);
    cache(&bench, &["mount", "import", "npm", archive]).ok();
    assert_eq!(ids(&bench), ["npm", "twice", "twice"]);
    // A step finds what was read in.
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c,id=npm cat /c/one && echo seen\n";
    let context = bench.context("second", &[("Dockerfile", text)]);
    bench.build(&context, &[]).ok().says(&["seen"]);
}

#[test]
fn what_is_no_cache_mount_or_no_archive_is_said() {
    let bench = bench_with_caches();
    for command in ["export", "rm"] {
        cache(&bench, &["mount", command, "yarn"]).fails(
            1,
            &[
                "error: there is no cache mount `yarn`",
                "hint: `rbuild cache mount ls` lists the cache mounts that there are",
            ],
        );
    }
    cache(&bench, &["mount", "export", "twice"])
        .fails(2, &["error: there are 2 caches `twice`", "name one by its hash"]);
    cache(&bench, &["mount", "import", "npm", "/no/such.tar"])
        .fails(2, &["error: cannot read the archive `/no/such.tar`", "No such file or directory"]);
    cache(&bench, &["mount", "export", "npm", "-o", "/no/such/folder.tar"])
        .fails(3, &["error: cannot write `/no/such/folder.tar`", "No such file or directory"]);
    let noise = bench.path("noise");
    fs::write(&noise, [7; 3000]).expect("file");
    let noise = noise.to_str().expect("text");
    cache(&bench, &["mount", "import", "npm", noise]).fails(
        1,
        &[
            "error: could not unpack the archive into the cache",
            "caused by: it is no tar archive, plain or with gzip or zstd",
            &format!("hint: the archive is `{noise}`; the cache is as it was"),
        ],
    );
    // The cache still has its file.
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c,id=npm cat /c/one && echo kept\n";
    let context = bench.context("second", &[("Dockerfile", text)]);
    bench.build(&context, &[]).ok().says(&["kept"]);
}

#[test]
fn the_limit_is_set_shown_and_lifted() {
    let bench = Bench::new();
    assert_eq!(cache(&bench, &["limit"]).ok().stdout, "none\n");
    cache(&bench, &["limit", "64m"]).ok();
    assert_eq!(cache(&bench, &["limit"]).ok().stdout, "67.1 MB\n");
    cache(&bench, &["limit", "none"]).ok();
    assert_eq!(cache(&bench, &["limit"]).ok().stdout, "none\n");
    let expected = "expected a size like `64m` or `1g`";
    cache(&bench, &["limit", "lots"]).fails(2, &["error: cannot read `cache limit lots`", expected]);
    cache(&bench, &["prune", "--keep", "5x"]).fails(2, &["error: cannot read `--keep 5x`", expected]);
    cache(&bench, &["prune", "--older-than", "soon"])
        .fails(2, &["error: cannot read `--older-than soon`", "expected a time like `30m`, `36h` or `7d`"]);
}

#[test]
fn pruning_tells_first_and_keeps_named_images() {
    let bench = bench_with_caches();
    let would = cache(&bench, &["prune", "--all", "--dry-run"]).ok().stdout;
    assert!(would.starts_with("would remove "), "{would}");
    assert_eq!(ids(&bench).len(), 3, "a dry run removed something");
    let did = cache(&bench, &["prune", "--all"]).ok().stdout;
    assert_eq!(did, would.replace("would remove", "removed"));
    assert_eq!(ids(&bench), Vec::<String>::new());
    assert!(bench.rbuild().arg("images").ran().ok().stdout.contains("example"));
    let checked = cache(&bench, &["check"]).ok().stdout;
    assert!(checked.ends_with(" objects, 0 problems\n"), "{checked}");
}

#[test]
fn steps_are_listed_as_they_were_written() {
    let bench = Bench::new();
    let text = "FROM busybox\nCOPY --chmod=600 a /b\nRUN <<END\ntrue\nEND\nRUN \\\n  echo one\n";
    let context = bench.context("context", &[("Dockerfile", text), ("a", "")]);
    bench.build(&context, &["-t", "example"]).ok();
    let listed = cache(&bench, &["ls"]).ok().stdout;
    let mut about: Vec<&str> =
        listed.lines().filter(|line| line.starts_with("step")).filter_map(|line| line.rsplit("  ").next()).collect();
    about.sort_unstable();
    assert_eq!(about, ["COPY --chmod=600 a /b", "RUN <<END", "RUN echo one"], "{listed}");
}
