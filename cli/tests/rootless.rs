//! The same image for root, for an ordinary user, with and without namespaces, and wherever else it is built.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bench, RunCommand, User, digest_in, have, is_root};

const DOCKERFILE: &str = r#"
FROM busybox AS made
RUN echo worker:x:1234:1234::/home/worker:/bin/sh >> /etc/passwd && echo worker:x:1234: >> /etc/group && mkdir -p /home/worker /srv/data && chown -R worker:worker /srv/data && chmod 2750 /srv/data
RUN --mount=type=secret,id=token,target=/run/token cut -c1 /run/token > /srv/first && ln /srv/first /srv/second
RUN --mount=type=cache,target=/cache,uid=1234 echo kept >> /cache/kept && test "$(stat -c %u /cache)" = 1234
RUN --mount=type=bind,source=files,target=/in --mount=type=tmpfs,target=/scratch cp -r /in/sub /srv/sub && touch /scratch/x && test ! -e /srv/x
RUN <<SCRIPT
  rm -r /home/worker
  mkdir /home/worker
  echo again > /home/worker/again
SCRIPT
FROM busybox
COPY --chown=7:8 --chmod=640 files /files
COPY --from=made / /
RUN stat -c '%u %g %a' /files /files/b > /srv/owners
USER worker
RUN id -un > /tmp/me && echo text > /srv/data/mine
WORKDIR /srv/data
CMD ["cat", "/srv/data/mine"]
"#;

fn context(bench: &Bench) -> PathBuf {
    bench.context("context", &[("Dockerfile", DOCKERFILE), ("files/sub/a", "a"), ("files/b", "b"), ("token", "t0ken")])
}

fn flags(bench: &Bench, file: &Path) -> Vec<String> {
    let token = format!("id=token,src={}", bench.path("context/token").display());
    ["-t", "same", "--secret", &token, "--iidfile", &file.display().to_string()].map(str::to_owned).to_vec()
}

fn digest(command: &mut Command, file: &Path) -> String {
    command.env("SOURCE_DATE_EPOCH", "1700000000").ran().ok();
    digest_in(file)
}

fn rbuild_at(bench: &Bench, store: &str, more: &[&str]) -> String {
    let context = context(bench);
    let file = bench.path("id");
    let mut command = support::clean_command(env!("CARGO_BIN_EXE_rbuild"));
    command.arg("--root").arg(bench.path(store)).args(["build", "--progress=plain", "--build-context"]);
    command.arg(format!("busybox=oci-layout://{}", bench.path("busybox").display()));
    command.args(flags(bench, &file)).args(more).arg(&context);
    digest(&mut command, &file)
}

#[test]
fn users_build_the_image_that_root_builds() {
    if !have("rootless", &["setpriv", "newuidmap"]) || !is_root("rootless") {
        return;
    }
    let bench = Bench::new();
    let wanted = rbuild_at(&bench, "store", &[]);
    let user = bench.user();
    let context = context(&bench);
    let file = user.path("id");
    let flags = flags(&bench, &file);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(digest(&mut user.build_command(&bench, &context, &flags), &file), wanted);
    assert_eq!(user.rbuild().args(["run", "same"]).ran().ok().stdout, "text\n");
    assert_eq!(user.rbuild().args(["run", "--user", "0", "same", "id", "-u"]).ran().ok().stdout, "0\n");
    assert_eq!(user.rbuild().args(["run", "same", "sh", "-c", "exit 9"]).ran().code, 9);
    let doctor = user.rbuild().arg("doctor").ran().ok();
    let text = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(text.contains("subordinate"), "{text}");
}

/// A build of a user who has no program that hands out subordinate ids.
fn without_newuidmap(bench: &Bench, user: &User, context: &Path, flags: &[&str]) -> Command {
    let empty = user.path("no-programs");
    fs::create_dir_all(&empty).expect("folder");
    let build = user.build_command(bench, context, flags);
    let mut command = user.command("env");
    command.arg(format!("PATH={}", empty.display()));
    command.args(build.get_args().skip_while(|word| *word != "--").skip(1));
    command
}

#[test]
fn users_without_subordinate_ids_are_told() {
    if !have("rootless", &["setpriv", "newuidmap"]) || !is_root("rootless") {
        return;
    }
    let bench = Bench::new();
    let user = bench.user();
    let context = context(&bench);
    let ran = without_newuidmap(&bench, &user, &context, &[]).ran();
    ran.fails(3, &["newuidmap", "uidmap"]);
    // What was copied meanwhile has not the owners that a command must see.
    let wanted = rbuild_at(&bench, "store", &[]);
    let file = user.path("id");
    let flags = flags(&bench, &file);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(digest(&mut user.build_command(&bench, &context, &flags), &file), wanted);
}

/// Modes that shut out their owner are in the image, and do not stop the build.
#[test]
fn users_without_subordinate_ids_copy_what_has_no_rights() {
    if !have("rootless", &["setpriv"]) || !is_root("rootless") {
        return;
    }
    let bench = Bench::new();
    let dockerfile = "FROM scratch AS first\nCOPY --chmod=000 files /files\nFROM scratch\nCOPY --from=first / /\n";
    let context = bench.context("context", &[("Dockerfile", dockerfile), ("files/sub/a", "a"), ("files/b", "b")]);
    let wanted = bench.path("wanted");
    let iid_file = |file: &Path| ["--iidfile".to_owned(), file.display().to_string()];
    let mut as_root = support::clean_command(env!("CARGO_BIN_EXE_rbuild"));
    as_root.arg("--root").arg(bench.path("store")).arg("build").args(iid_file(&wanted)).arg(&context);
    let wanted = digest(&mut as_root, &wanted);
    let user = bench.user();
    let file = user.path("id");
    let flags = iid_file(&file);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(digest(&mut without_newuidmap(&bench, &user, &context, &flags), &file), wanted);
}

#[test]
fn chroot_makes_the_image_that_namespaces_make() {
    if !is_root("chroot") {
        return;
    }
    let bench = Bench::new();
    let wanted = rbuild_at(&bench, "store", &[]);
    assert_eq!(rbuild_at(&bench, "other", &["--isolation=chroot"]), wanted);
    let mut run = support::clean_command(env!("CARGO_BIN_EXE_rbuild"));
    run.arg("--root").arg(bench.path("other")).args(["run", "same"]);
    assert_eq!(run.ran().ok().stdout, "text\n");
}

/// Files of an ordinary user's store belong to subordinate ids, which the user alone may neither read nor remove.
#[test]
fn users_look_after_their_store() {
    if !have("rootless", &["setpriv", "newuidmap"]) || !is_root("rootless") {
        return;
    }
    const PRIVATE: &str = "FROM busybox\n\
        RUN mkdir -m 700 /p && echo text > /p/f && chmod 600 /p/f && chown -R 5:5 /p\n\
        RUN --mount=type=cache,target=/c mkdir -m 700 /c/d && echo kept > /c/d/f && chown -R 6:6 /c/d\n";
    let bench = Bench::new();
    let user = bench.user();
    let context = bench.context("private", &[("Dockerfile", PRIVATE)]);
    user.build_command(&bench, &context, &["-t", "private"]).ran().ok();
    let cache = |args: &[&str]| user.rbuild().arg("cache").args(args).ran().ok().stdout;
    let checked = cache(&["check"]);
    assert!(checked.ends_with(" objects, 0 problems\n"), "{checked}");
    let archive = user.path("mount.tar");
    cache(&["mount", "export", "/c", "-o", &archive.display().to_string()]);
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("an archive"));
    let names =
        archive.entries().expect("entries").map(|entry| entry.expect("entry").path().expect("path").into_owned());
    assert!(names.collect::<Vec<_>>().contains(&PathBuf::from("d/f")));
    user.rbuild().args(["rmi", "private"]).ran().ok();
    cache(&["prune", "--all", "--force"]);
    for folder in ["layers", "mounts"] {
        let left = fs::read_dir(user.path("store").join(folder)).expect("a folder of the store").count();
        assert_eq!(left, 0, "{folder}");
    }
}

/// What a cache mount holds is there for the next build, also where it was copied in and out.
#[test]
fn chroot_keeps_cache_mounts() {
    if !is_root("chroot caches") {
        return;
    }
    let bench = Bench::new();
    let text = |n: u32| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/cache echo {n} >> /cache/all; cp /cache/all /all; rm -f /cache/gone; [ {n} = 1 ] && touch /cache/gone; true\n"
        )
    };
    for (n, isolation) in [(1, "chroot"), (2, "chroot"), (3, "auto"), (4, "chroot")] {
        let context = bench.context("caches", &[("Dockerfile", &text(n))]);
        bench.build(&context, &["-t", "caches", &format!("--isolation={isolation}")]).ok();
    }
    assert_eq!(bench.rbuild().args(["run", "caches", "cat", "/all"]).ran().ok().stdout, "1\n2\n3\n4\n");
    assert_eq!(bench.rbuild().args(["run", "caches", "ls", "/"]).ran().ok().stdout.matches("cache").count(), 0);
}

#[test]
fn images_depend_on_nothing_but_their_inputs() {
    let bench = Bench::new();
    let wanted = rbuild_at(&bench, "first", &[]);
    let context = context(&bench);
    for (store, umask, zone, language, jobs) in
        [("second", "077", "Asia/Kathmandu", "C", "1"), ("third", "000", "UTC", "de_DE.UTF-8", "7")]
    {
        let file = bench.path("id");
        let flags: Vec<String> = flags(&bench, &file);
        let mut command = support::clean_command("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_rbuild"), "--root"]);
        command.arg(bench.path(store)).args(["build", "--progress=plain", "--jobs", jobs, "--build-context"]);
        command.arg(format!("busybox=oci-layout://{}", bench.path("busybox").display())).args(flags).arg(&context);
        command.env("TZ", zone).env("LANG", language).env("LC_ALL", language);
        assert_eq!(digest(&mut command, &file), wanted, "umask {umask}, {zone}, {language}, {jobs} jobs");
    }
}
