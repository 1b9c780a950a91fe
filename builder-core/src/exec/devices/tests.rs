use std::collections::BTreeSet;
use std::path::PathBuf;

use super::edits::HostMount;
use super::permission::{Allowed, grant};
use super::*;

/// Folders with CDI files, each `(name, text)`.
fn folders(folders: &[&[(&str, &str)]]) -> (tempfile::TempDir, Registry) {
    let root = tempfile::tempdir().expect("a folder");
    let mut paths = vec![root.path().join("missing")];
    for (number, files) in folders.iter().enumerate() {
        let path = root.path().join(number.to_string());
        std::fs::create_dir(&path).expect("a folder");
        for (name, text) in *files {
            std::fs::write(path.join(name), text).expect("a file");
        }
        paths.push(path);
    }
    let registry = Registry::read(&paths);
    (root, registry)
}

fn allowed(entitlements: &[&str]) -> Allowed {
    Allowed::parse(&entitlements.iter().map(|&text| text.to_owned()).collect()).expect("entitlements")
}

fn requests(names: &[&str]) -> Vec<(String, bool)> {
    names.iter().map(|name| ((*name).to_owned(), true)).collect()
}

fn granted(registry: &Registry, names: &[&str]) -> Vec<String> {
    grant(registry, &allowed(&["device"]), &requests(names)).expect("devices").names
}

const DEVICES: &str = "cdiVersion: 0.6.0\nkind: a.com/dev\ndevices:\n- name: one\n- name: two\n  annotations:\n    \
    org.mobyproject.buildkit.device.class: even\n- name: zero\n  annotations:\n    \
    org.mobyproject.buildkit.device.class: even\n    org.mobyproject.buildkit.device.autoallow: \"true\"\n";

#[test]
fn names_stand_for_devices() {
    let (_root, registry) = folders(&[&[("a.yaml", DEVICES), ("notes.txt", "no CDI file")]]);
    for (name, devices) in [
        ("a.com/dev=one", &["one"] as &[&str]),
        ("a.com/dev", &["one"]),
        ("a.com/dev=*", &["one", "two", "zero"]),
        ("a.com/dev=even", &["two", "zero"]),
    ] {
        let devices: Vec<String> = devices.iter().map(|device| format!("a.com/dev={device}")).collect();
        assert_eq!(granted(&registry, &[name]), devices, "{name}");
    }
    assert_eq!(granted(&registry, &["a.com/dev=two", "a.com/dev=*"]).len(), 3, "each comes once");

    let error = grant(&registry, &allowed(&["device"]), &requests(&["dev=one"])).expect_err("no name");
    assert_eq!(error.to_string(), "`dev=one` is no name of a device");
    let error = grant(&registry, &allowed(&["device"]), &requests(&["a.com/dev=x"])).expect_err("not there");
    assert_eq!(error.to_string(), "the required device `a.com/dev=x` is not there");
    assert!(error.help().starts_with("there are `a.com/dev=one`, `a.com/dev=two`, `a.com/dev=zero`;"), "{error}");
    let optional = [("a.com/dev=x".to_owned(), false)];
    assert_eq!(grant(&registry, &allowed(&[]), &optional).expect("none").missing, ["a.com/dev=x"]);
}

#[test]
fn later_folders_count_more_and_faults_are_told() {
    let other = DEVICES.replace("kind: a.com/dev", "kind: a.com/dev\ncontainerEdits:\n  env: [WHICH=later]");
    let twice = "{\"cdiVersion\": \"0.5.0\", \"kind\": \"b.com/x\", \"devices\": [{\"name\": \"d\"}]}";
    let (_root, registry) =
        folders(&[&[("a.yaml", DEVICES)], &[("a.yml", &other), ("b.json", twice), ("c.json", twice), ("d.json", "{")]]);
    let edits = DeviceEdits::of(&registry, &granted(&registry, &["a.com/dev=one"])).expect("edits");
    assert_eq!(edits.environment, [("WHICH".to_owned(), "later".to_owned())]);
    let error = grant(&registry, &allowed(&["device"]), &requests(&["b.com/x=d"])).expect_err("ambiguous");
    let help = error.help();
    assert!(help.contains("several files have the device `b.com/x=d`"), "{help}");
    assert!(help.contains("/d.json`: EOF while parsing"), "{help}");
}

#[test]
fn devices_must_be_allowed() {
    let (_root, registry) = folders(&[&[("a.yaml", DEVICES)]]);
    let names = |entitlements: &[&str], wanted: &[&str]| {
        grant(&registry, &allowed(entitlements), &requests(wanted))
            .map(|granted| granted.names)
            .map_err(|error| (error.to_string(), error.help()))
    };
    assert_eq!(names(&[], &["a.com/dev=zero"]).expect("free for all"), ["a.com/dev=zero"]);
    assert_eq!(names(&["device=a.com/dev"], &["a.com/dev=one"]).expect("the first"), ["a.com/dev=one"]);
    assert_eq!(names(&["device=a.com/dev=*"], &["a.com/dev=*"]).expect("all").len(), 3);
    assert_eq!(names(&["device=a.com/dev=two,alias=x.y/z"], &["x.y/z"]).expect("an alias"), ["a.com/dev=two"]);
    let (message, help) = names(&["device=a.com/dev=two"], &["a.com/dev=one", "a.com/dev=two"]).expect_err("not one");
    assert_eq!(message, "the step needs the entitlement `device` for `a.com/dev=one`, which was not granted");
    assert_eq!(help, "allow it with --allow device=a.com/dev=one, or all devices with --allow device");
    for text in ["device=", "device=a.b/c,d", "device=a.b/c,alias=d,e"] {
        let error = Allowed::parse(&BTreeSet::from([text.to_owned()])).expect_err(text);
        assert_eq!(error.to_string(), format!("`{text}` can't be allowed"));
    }
}

/// The edits of a device that takes `text`.
fn edits(text: &str) -> Result<DeviceEdits, DeviceError> {
    let file = format!(
        "{{\"cdiVersion\": \"1.0.0\", \"kind\": \"a.com/x\", \"devices\": [{{\"name\": \"d\", \"containerEdits\": {text}}},
        {{\"name\": \"e\"}}], \"containerEdits\": {{\"env\": [\"A=1\", \"B=2\"], \"additionalGids\": [7]}}}}"
    );
    let (_root, registry) = folders(&[&[("a.json", &file)]]);
    DeviceEdits::of(&registry, &granted(&registry, &["a.com/x=*"]))
}

#[test]
fn edits_are_collected() {
    let made = edits(
        r#"{"env": ["A=other"], "additionalGids": [0, 7, 8],
            "deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/null", "major": 1, "minor": 3, "type": "c"}],
            "mounts": [{"hostPath": "/proc/self/status", "containerPath": "/mnt/s", "options": ["ro", "rbind"]}]}"#,
    )
    .expect("edits");
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(made.environment, [text("B", "2"), text("A", "other")]);
    assert_eq!(made.groups, [7, 8]);
    assert_eq!(made.nodes, [(PathBuf::from("/dev/null"), "/dev/mine".to_owned())]);
    let [HostMount { target, is_directory: false, read_only: true, .. }] = made.mounts.as_slice() else {
        panic!("{made:?}");
    };
    assert_eq!(target, "/mnt/s");
}

#[test]
fn what_a_step_cannot_be_given_is_refused() {
    for (text, message) in [
        (
            r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}"#,
            "takes the createContainer hook `/bin/x`, by",
        ),
        (r#"{"intelRdt": {}}"#, "takes Intel RDT"),
        (r#"{"netDevices": [{"name": "x"}]}"#, "takes a network device"),
        (r#"{"deviceNodes": [{"path": "/dev/not-there"}]}"#, "No such file"),
        (r#"{"deviceNodes": [{"path": "/proc/self/status"}]}"#, "it is no device"),
        (r#"{"deviceNodes": [{"path": "/dev/null", "major": 1, "minor": 5}]}"#, "it is c 1:3, not c 1:5"),
        (r#"{"deviceNodes": [{"path": "/dev/null", "type": "b"}]}"#, "it is c 1:3, not b 1:3"),
        (r#"{"mounts": [{"hostPath": "/", "containerPath": "/a", "type": "overlay"}]}"#, "a mount of type `overlay`"),
        (r#"{"mounts": [{"hostPath": "/", "containerPath": "/a", "options": ["suid"]}]}"#, "the mount option `suid`"),
    ] {
        let error = edits(text).expect_err(text).to_string();
        assert!(error.starts_with("the device `a.com/x=d` takes ") && error.contains(message), "{error}");
    }
}
