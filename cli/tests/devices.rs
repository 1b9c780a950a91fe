//! `RUN --device`, from the flags to what the command sees and what the image keeps of it.

mod support;

use support::{Bench, RunCommand};

const SPEC: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/class
containerEdits:
  env: [ALL=yes]
devices:
- name: zero
  containerEdits:
    env: [WHICH=zero]
    additionalGids: [4711]
    deviceNodes:
    - path: /dev/inside/mine
      hostPath: /dev/zero
      major: 1
      minor: 5
    - path: /opt/other
      hostPath: /dev/null
    mounts:
    - hostPath: {library}
      containerPath: /opt/library
      options: [ro, nosuid]
- name: hooked
  containerEdits:
    hooks:
    - hookName: createContainer
      path: /usr/bin/hook
"#;

#[test]
fn a_step_has_its_devices_and_the_image_nothing_of_them() {
    let bench = Bench::new();
    let files = bench.context("library", &[("lib.so", "library")]);
    let specs = bench.context("cdi", &[("vendor.yaml", &SPEC.replace("{library}", &files.display().to_string()))]);
    let context = bench.context(
        "context",
        &[(
            "Dockerfile",
            "FROM busybox\n\
             RUN --device=vendor.com/class=zero,required test \"$WHICH $ALL\" = 'zero yes' \\\n\
             && test \"$(head -c 3 /dev/inside/mine | od -An -tx1)\" = ' 00 00 00' \\\n\
             && echo lost > /opt/other && test \"$(cat /opt/library/lib.so)\" = library \\\n\
             && ! touch /opt/library/new 2>/dev/null && id -G | grep -qw 4711 && echo done > /result\n\
             RUN test -z \"$WHICH\" && test ! -e /dev/inside/mine && test ! -e /opt && cat /result\n",
        )],
    );
    let folder = format!("--cdi-spec-dir={}", specs.display());
    bench.build(&context, &[&folder]).fails(
        1,
        &[
            "needs the entitlement `device` for `vendor.com/class=zero`",
            "Dockerfile:2",
            "--allow device=vendor.com/class=zero",
        ],
    );
    bench.build(&context, &[&folder, "--allow=device=vendor.com/class=hooked"]).fails(1, &["needs the entitlement"]);
    for allow in ["--allow=device", "--allow=device=vendor.com/class=zero", "--allow=device=vendor.com/class=*"] {
        bench.build(&context, &[&folder, allow, "-t", "x", "--no-cache"]).ok();
    }
    bench.build(&context, &[&folder]).fails(1, &["needs the entitlement"]);
    let config = bench.rbuild().args(["inspect", "x"]).ran().ok().stdout;
    assert!(!config.contains("WHICH=") && !config.contains("ALL=yes"), "{config}");
}

#[test]
fn devices_that_cannot_be_had_are_told_before_the_first_step() {
    let bench = Bench::new();
    let specs = bench.context("cdi", &[("vendor.yaml", &SPEC.replace("{library}", "/nowhere")), ("broken.json", "{")]);
    let folder = format!("--cdi-spec-dir={}", specs.display());
    let build = |name: &str, run: &str, flags: &[&str]| {
        let context = bench.context(name, &[("Dockerfile", &format!("FROM busybox\nRUN echo first step\n{run}\n"))]);
        bench.build(&context, &[&[folder.as_str(), "--allow=device"], flags].concat())
    };
    let ran = build("missing", "RUN --device=vendor.com/class=none,required true", &[]).fails(
        1,
        &[
            "the required device `vendor.com/class=none` is not there",
            "Dockerfile:3",
            "there are `vendor.com/class=hooked`, `vendor.com/class=zero`",
            "broken.json`: EOF",
        ],
    );
    assert!(!ran.stderr.contains("first step\n#"), "{}", ran.stderr);
    build("optional", "RUN --device=vendor.com/class=none echo 'runs without'", &[])
        .ok()
        .says(&["the device `vendor.com/class=none` is not there, so the step runs without it", "runs without"]);
    build("hooked", "RUN --device=vendor.com/class=hooked true", &[])
        .fails(1, &["takes the createContainer hook `/usr/bin/hook`", "vendor.yaml", "Dockerfile:3"]);
    build("library", "RUN --device=vendor.com/class=zero true", &[])
        .fails(1, &["takes `/nowhere` of this machine", "No such file"]);
    build("chroot", "RUN --device=vendor.com/class=zero true", &["--isolation=chroot"])
        .fails(1, &["`vendor.com/class=zero` can't be given to a step without namespaces", "Dockerfile:3"]);
    build("name", "RUN --device=zero true", &[]).fails(1, &["`zero` is no name of a device"]);
    build("csv", "RUN --device=vendor.com/class=zero,requird=1 true", &[])
        .fails(1, &["unexpected key 'requird'", "did you mean `required`?"]);
}
