//! After an edit, a command sees the tree that it would see in a build from nothing, though most files of the edited layer
//! are those of the layer before.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Bench, Ran, RunCommand, clean_command, digest_in, is_root};

/// Lists a tree with all that a command can see of it, but for what overlayfs says of merged directories.
const LIST: &str = "find . | sort | while read -r f; do \
    if [ -d \"$f\" ] && [ ! -L \"$f\" ]; then stat -c '%n %f %u:%g %Y' \"$f\"; \
    elif [ -L \"$f\" ]; then stat -c '%N %f %u:%g %Y' \"$f\"; \
    else stat -c '%n %f %u:%g %Y %s %h' \"$f\"; md5sum \"$f\"; fi; done";

fn dockerfile() -> String {
    format!(
        "FROM busybox AS made\n\
         COPY data /data\n\
         RUN cd /data && ({LIST}) > /listing && echo more >> /data/sub/0 && rm -r /data/other\n\
         RUN cd /data && ({LIST}) > /after\n\
         FROM busybox\n\
         COPY --from=made /data /copied\n\
         COPY --from=made /listing /after /\n\
         COPY data /data\n\
         RUN --mount=type=bind,from=made,source=/data,target=/bound cd /bound && ({LIST}) > /bound-listing; \
         cd /data && ({LIST}) > /last\n"
    )
}

/// A context of some folders, files and links.
fn context(bench: &Bench) -> PathBuf {
    let texts: Vec<String> = (0..60).map(|n| format!("data/{}/{n}", ["sub", "other", "sub/deep"][n % 3])).collect();
    let files: Vec<(&str, &str)> = texts.iter().map(|name| (name.as_str(), "text")).collect();
    let context = bench.context("context", &files);
    fs::write(context.join("Dockerfile"), dockerfile()).expect("write");
    symlink("sub/0", context.join("data/link")).expect("link");
    context
}

fn command(bench: &Bench, store: &Path, context: &Path, flags: &[&str]) -> Command {
    let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
    command.arg("--root").arg(store).args(["build", "--progress=plain", "--network=host", "-t", "edited", "--iidfile"]);
    command.arg(bench.path("id")).arg("--build-context");
    command.arg(format!("busybox=oci-layout://{}", bench.path("busybox").display())).args(flags).arg(context);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

fn built(bench: &Bench, store: &Path, context: &Path, flags: &[&str]) -> (String, Ran) {
    let ran = command(bench, store, context, flags).ran().ok();
    (digest_in(&bench.path("id")), ran)
}

/// The digest that a build in an empty store gives.
fn clean(bench: &Bench, context: &Path) -> String {
    let store = bench.path("clean");
    let _ = fs::remove_dir_all(&store);
    built(bench, &store, context, &[]).0
}

/// The layers that lie over another one, with that one: hexadecimal digits.
fn over(store: &Path) -> Vec<(String, String)> {
    let layers = fs::read_dir(store.join("layers")).expect("layers").filter_map(Result::ok);
    let pairs = layers.filter_map(|layer| {
        let mark = String::from_utf8_lossy(&fs::read(layer.path().join("unpacked")).ok()?).into_owned();
        let base = mark.lines().find_map(|line| Some(line.split_once("over sha256:")?.1.to_owned()))?;
        Some((layer.file_name().to_string_lossy().into_owned(), base))
    });
    pairs.collect()
}

/// What is done to the context's `data`, and whether the edited layer can lie over the one before.
type Edit = (&'static str, fn(&Path), bool);

/// What happens to a layer's folder.
type Loss = (&'static str, fn(&Path));

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("write");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

fn edits() -> [Edit; 11] {
    [
        ("a file changed", |data| write(&data.join("sub/deep/2"), "other text"), true),
        ("the same size", |data| write(&data.join("sub/deep/5"), "TEXT"), true),
        ("another mode", |data| set_mode(&data.join("sub/0"), 0o700), true),
        ("another mode of a folder", |data| set_mode(&data.join("sub"), 0o711), true),
        (
            "a file and a folder added",
            |data| {
                fs::create_dir(data.join("new")).expect("folder");
                write(&data.join("new/file"), "new");
                write(&data.join("other/new"), "new");
            },
            true,
        ),
        (
            "a link for a file",
            |data| {
                fs::remove_file(data.join("sub/3")).expect("remove");
                symlink("../link", data.join("sub/3")).expect("link");
            },
            true,
        ),
        (
            "the link changed",
            |data| {
                fs::remove_file(data.join("link")).expect("remove");
                symlink("other/1", data.join("link")).expect("link");
            },
            true,
        ),
        ("a file removed", |data| fs::remove_file(data.join("sub/6")).expect("remove"), false),
        ("a file renamed", |data| fs::rename(data.join("sub/9"), data.join("sub/nine")).expect("rename"), false),
        (
            "a file for a folder",
            |data| {
                fs::remove_dir_all(data.join("new")).expect("remove");
                write(&data.join("new"), "file");
            },
            false,
        ),
        (
            "a folder for a file",
            |data| {
                fs::remove_file(data.join("new")).expect("remove");
                fs::create_dir(data.join("new")).expect("folder");
            },
            false,
        ),
    ]
}

fn every_edit_gives_the_image_of_a_clean_build(flags: &[&str]) {
    let bench = Bench::new();
    let (context, store) = (context(&bench), bench.path("store"));
    built(&bench, &store, &context, flags);
    assert_eq!(over(&store), []);
    for (what, edit, is_over) in edits() {
        let before = over(&store).len();
        edit(&context.join("data"));
        let (digest, ran) = built(&bench, &store, &context, flags);
        assert_eq!(digest, clean(&bench, &context), "{what}: {}", ran.stderr);
        // The same files are copied by two stages, as one layer.
        let made = over(&store).len() - before;
        assert!(if is_over { made >= 1 } else { made <= 1 }, "{what}: {made}, {:?}", over(&store));
        // A container of the image sees the same.
        let listed = format!("cd /data && ({LIST}) | diff - /last");
        bench.rbuild().args(["run", "--network=host", "edited", "sh", "-c", &listed]).ran().ok();
    }
    bench.rbuild().args(["cache", "check"]).ran().ok();
}

/// What a large layer begins with is taken over from the one before, whether it is unpacked or not.
#[test]
fn a_large_copy_is_that_of_a_clean_build() {
    for dockerfile in
        ["FROM scratch\nCOPY data /data\n", "FROM busybox\nCOPY data /data\nRUN find /data | sort > /list\n"]
    {
        let bench = Bench::new();
        let (context, store) = (context(&bench), bench.path("store"));
        write(&context.join("Dockerfile"), dockerfile);
        let text =
            |seed: u32| (0..12_000_u32).map(|n| format!("{}\n", n.wrapping_mul(seed) % 9973)).collect::<String>();
        for number in 0..60 {
            let folder = ["sub", "other", "sub/deep"][number as usize % 3];
            write(&context.join(format!("data/{folder}/{number}")), &text(number));
        }
        write(&context.join("data/sub/big"), &text(1000).repeat(60));
        built(&bench, &store, &context, &[]);
        let more: [Edit; 3] = [
            ("the end of a big file", |data| append(&data.join("sub/big")), true),
            ("the last file", |data| append(&data.join("sub/nine")), true),
            ("the first file", |data| append(&data.join("other/1")), true),
        ];
        for (what, edit, _) in edits().into_iter().chain(more) {
            edit(&context.join("data"));
            let (digest, ran) = built(&bench, &store, &context, &[]);
            assert_eq!(digest, clean(&bench, &context), "{what}: {}", ran.stderr);
        }
        bench.rbuild().args(["cache", "check"]).ran().ok();
    }
}

fn append(path: &Path) {
    write(path, &(fs::read_to_string(path).expect("read") + "more"));
}

#[test]
fn in_namespaces() {
    every_edit_gives_the_image_of_a_clean_build(&[]);
}

#[test]
fn in_a_copy_of_the_tree() {
    if is_root("in_a_copy_of_the_tree") {
        every_edit_gives_the_image_of_a_clean_build(&["--isolation=chroot"]);
    }
}

#[test]
fn for_an_ordinary_user() {
    if !is_root("for_an_ordinary_user") {
        return;
    }
    let bench = Bench::new();
    let (context, user, id) = (context(&bench), bench.user(), bench.path("user-id"));
    write(&id, "");
    set_mode(&id, 0o666);
    let flags = ["--network=host", "-t", "edited", "--iidfile", &id.display().to_string()];
    let build = || user.build_command(&bench, &context, &flags).env("SOURCE_DATE_EPOCH", "1700000000").ran().ok();
    build();
    write(&context.join("data/sub/0"), "edited");
    build();
    assert_ne!(over(&user.path("store")), []);
    assert_eq!(digest_in(&id), clean(&bench, &context));
}

/// A store whose newest layer of the context lies over an older one, and the hexadecimal digits of both.
fn edited_once(bench: &Bench, context: &Path) -> (String, String) {
    let store = bench.path("store");
    built(bench, &store, context, &[]);
    write(&context.join("data/sub/0"), "edited");
    built(bench, &store, context, &[]);
    let pairs = over(&store);
    let sizes = |(layer, _): &&(String, String)| {
        fs::metadata(store.join("layers").join(layer).join("tree")).expect("tree").len()
    };
    pairs.iter().max_by_key(sizes).expect("the edited layer lies over the first").clone()
}

#[test]
fn the_layer_below_may_be_lost_or_damaged() {
    let bench = Bench::new();
    let (context, store) = (context(&bench), bench.path("store"));
    let losses: [Loss; 4] = [
        ("lost", |base| fs::remove_dir_all(base).expect("remove")),
        ("without its files", |base| fs::remove_dir_all(base.join("fs")).expect("remove")),
        ("damaged", |base| write(&base.join("fs/data/sub/12"), "damage")),
        ("torn", |base| write(&base.join("unpacked"), "torn")),
    ];
    for (number, (what, lose)) in losses.into_iter().enumerate() {
        let _ = fs::remove_dir_all(&store);
        write(&context.join("data/sub/0"), "text");
        let (_, base) = edited_once(&bench, &context);
        lose(&store.join("layers").join(base));
        // The layer itself, for a command that did not run yet, and another edit of it.
        let text = dockerfile() + &format!("RUN cd /data && ({LIST}) | diff - /last && echo {number} > /number\n");
        write(&context.join("Dockerfile"), &text);
        let (digest, ran) = built(&bench, &store, &context, &[]);
        assert_eq!(digest, clean(&bench, &context), "{what}: {}", ran.stderr);
        write(&context.join("data/sub/0"), "edited again");
        let (digest, ran) = built(&bench, &store, &context, &[]);
        assert_eq!(digest, clean(&bench, &context), "{what}: {}", ran.stderr);
        write(&context.join("Dockerfile"), &dockerfile());
    }
}

#[test]
fn a_prune_keeps_what_is_needed_and_removes_what_is_not() {
    let bench = Bench::new();
    let (context, store) = (context(&bench), bench.path("store"));
    let (layer, base) = edited_once(&bench, &context);
    // Nothing but the edited layer needs the first one any more.
    let steps = fs::read_dir(store.join("steps")).expect("steps").map(|step| step.expect("step").path());
    let names_base = |step: &PathBuf| String::from_utf8_lossy(&fs::read(step).expect("read")).contains(&base);
    let old: Vec<PathBuf> = steps.filter(names_base).collect();
    assert!(!old.is_empty());
    old.iter().for_each(|step| fs::remove_file(step).expect("remove"));
    bench.rbuild().args(["cache", "prune", "--force"]).ran().ok();
    assert!(store.join("layers").join(&layer).is_dir() && store.join("layers").join(&base).is_dir());
    let wanted = clean(&bench, &context);
    assert_eq!(built(&bench, &store, &context, &[]).0, wanted);
    bench.rbuild().args(["cache", "prune", "--all", "--force"]).ran().ok();
    assert_eq!(built(&bench, &store, &context, &["--no-cache"]).0, wanted);
}

#[test]
fn an_edit_that_is_killed_leaves_nothing_wrong() {
    let bench = Bench::new();
    let (context, store) = (context(&bench), bench.path("store"));
    built(&bench, &store, &context, &[]);
    for round in 0..16 {
        write(&context.join("data/sub/0"), &format!("edit {round}"));
        let mut victim = command(&bench, &store, &context, &[]);
        let mut victim = victim.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(20 * round));
        let _ = victim.kill();
        victim.wait().expect("it ends");
        let (digest, ran) = built(&bench, &store, &context, &[]);
        assert_eq!(digest, clean(&bench, &context), "round {round}: {}", ran.stderr);
    }
}

/// A layer of some megabytes is compressed while the command after it runs, and no longer when that failed: the next build
/// has it without its blob.
#[test]
fn a_command_after_a_large_copy_fails_and_is_mended() {
    let bench = Bench::new();
    let (context, store) = (context(&bench), bench.path("store"));
    let large: Vec<String> = (0..1_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect();
    write(&context.join("data/large"), &large.concat());
    let dockerfile = |command: &str| {
        let text = format!("FROM busybox\nCOPY data /data\nRUN {command}\nRUN echo last > /last\n");
        write(&context.join("Dockerfile"), &text);
    };
    dockerfile("exit 7");
    command(&bench, &store, &context, &[]).ran().fails(7, &["the command ended with exit status 7"]);
    dockerfile("md5sum /data/large > /sum");
    let (digest, ran) = built(&bench, &store, &context, &[]);
    ran.says(&["#1 CACHED"]);
    assert_eq!(digest, clean(&bench, &context));
    bench.rbuild().args(["cache", "check"]).ran().ok();
}

/// What is known of the files of a context is in one file of the store, which is replaced when something is learnt.
fn known_of_context(store: &Path) -> u64 {
    let mut all = fs::read_dir(store.join("contexts")).expect("contexts").map(|entry| entry.expect("an entry"));
    let known = all.next().expect("one context").metadata().expect("status").ino();
    assert!(all.next().is_none());
    known
}

#[test]
fn an_edited_file_is_read_in_one_build_only() {
    let bench = Bench::new();
    let files =
        [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("a/1", "one"), ("a/2", "two"), ("a/3", "three"), ("4", "four")];
    let context = bench.context("context", &files);
    let store = bench.path("store");
    let edits: [fn(&Path); 4] = [
        |_| {},
        |context| write(&context.join("a/2"), "edited"),
        |context| write(&context.join("a/4"), "added"),
        |context| fs::remove_file(context.join("a/1")).expect("remove"),
    ];
    for (number, edit) in edits.iter().enumerate() {
        edit(&context);
        // A file that was written just now is not relied on.
        std::thread::sleep(Duration::from_millis(300));
        bench.build(&context, &[]).ok();
        let known = known_of_context(&store);
        bench.build(&context, &[]).ok();
        assert_eq!(known_of_context(&store), known, "something was read again after edit {number}");
    }
}
