//! A CDI file: what a vendor says that its devices take (Container Device Interface, versions 0.3 to 1.1).

use std::collections::BTreeMap;

use serde::Deserialize;

/// The versions of the interface whose files are understood.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// One file, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    cdi_version: String,
    /// `vendor.com/class`, for all its devices.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// What any of the devices takes.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a device takes.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) device_nodes: Vec<Node>,
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
    #[serde(default)]
    pub(super) additional_gids: Vec<u32>,
    #[serde(default)]
    pub(super) hooks: Vec<Hook>,
    #[serde(default)]
    pub(super) intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(super) net_devices: Vec<serde::de::IgnoredAny>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    /// In the step.
    pub(super) path: String,
    /// On the host, where that is another one.
    pub(super) host_path: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    // The step sees the host's own node, with its owner and mode, and no control group narrows what may be done to it.
    #[serde(rename = "fileMode")]
    _file_mode: Option<u32>,
    #[serde(rename = "permissions")]
    _permissions: Option<String>,
    #[serde(rename = "uid")]
    _uid: Option<u32>,
    #[serde(rename = "gid")]
    _gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

/// A program of the host that would have to run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it, one line.
pub(super) fn parse(text: &str, format: Format) -> Result<Spec, String> {
    let spec: Spec = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
        Format::Yaml => serde_saphyr::from_str(text)
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?,
    };
    if !VERSIONS.contains(&spec.cdi_version.trim_start_matches('v')) {
        return Err(format!("`cdiVersion: {}` is not understood (0.3.0 to 1.1.0 are)", spec.cdi_version));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("`kind: {}` is not of the form vendor.com/class", spec.kind));
    }
    if spec.devices.is_empty() {
        return Err("it has no devices".to_owned());
    }
    let mut names: Vec<&str> = spec.devices.iter().map(|device| device.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| !is_name(name, true)) {
        return Err(format!("`{name}` is no name of a device"));
    }
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("it has the device `{}` twice", pair[0]));
    }
    let edits = || spec.devices.iter().map(|device| &device.container_edits).chain([&spec.container_edits]);
    if let Some(text) = edits().flat_map(|e| &e.env).find(|text| text.find('=').is_none_or(|at| at == 0)) {
        return Err(format!("`env: {text}` is not of the form NAME=VALUE"));
    }
    let paths = edits().flat_map(|e| {
        let mounts = e.mounts.iter().flat_map(|mount| [&mount.host_path, &mount.container_path]);
        e.device_nodes.iter().flat_map(|node| [Some(&node.path), node.host_path.as_ref()]).flatten().chain(mounts)
    });
    if let Some(path) = paths.into_iter().find(|path| !path.starts_with('/')) {
        return Err(format!("`{path}` is no absolute path"));
    }
    Ok(spec)
}

/// Whether a text is of the form `vendor.com/class`.
pub(super) fn is_kind(text: &str) -> bool {
    text.split_once('/').is_some_and(|(vendor, class)| {
        let letter = |name: &str| name.starts_with(|first: char| first.is_ascii_alphabetic());
        let vendor_fits = vendor.chars().all(|ch| ch.is_ascii_alphanumeric() || "_-.".contains(ch));
        let class_fits = class.chars().all(|ch| ch.is_ascii_alphanumeric() || "_-".contains(ch));
        letter(vendor) && letter(class) && vendor_fits && class_fits && is_name(vendor, false) && is_name(class, false)
    })
}

/// Whether a text begins and ends with a letter or digit, and has only those and a few signs between.
fn is_name(text: &str, colons: bool) -> bool {
    let outer = |ch: char| ch.is_ascii_alphanumeric();
    text.starts_with(outer)
        && text.ends_with(outer)
        && text.chars().all(|ch| outer(ch) || "_-.".contains(ch) || (colons && ch == ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "cdiVersion: \"0.6.0\"\nkind: vendor.com/class\nannotations:\n  a.b/c: \"1\"\ndevices:\n\
        - name: foo\n  containerEdits:\n    env: [FOO=injected]\n    deviceNodes:\n    - path: /dev/foo\n      \
        hostPath: /dev/null\n      type: c\n      major: 1\n      minor: 3\n      fileMode: 438\n      permissions: rw\n\
        containerEdits:\n  mounts:\n  - hostPath: /usr/lib/x\n    containerPath: /usr/lib/x\n    options: [ro, nosuid]\n";

    #[test]
    fn both_forms_are_read() {
        let spec = parse(YAML, Format::Yaml).expect("a specification");
        assert_eq!(spec.devices[0].container_edits.device_nodes[0].host_path.as_deref(), Some("/dev/null"));
        assert_eq!(spec.container_edits.mounts[0].options, ["ro", "nosuid"]);
        let json = r#"{"cdiVersion": "1.0.0", "kind": "vendor.com/class", "devices": [{"name": "0:1",
            "containerEdits": {"additionalGids": [44], "intelRdt": {"closID": "x"},
            "hooks": [{"hookName": "createContainer", "path": "/bin/x", "args": ["x"]}]}}]}"#;
        let spec = parse(json, Format::Json).expect("a specification");
        assert_eq!(spec.devices[0].container_edits.additional_gids, [44]);
        assert!(spec.devices[0].container_edits.intel_rdt.is_some());
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (from, to, message) in [
            ("0.6.0", "9.0.0", "`cdiVersion: 9.0.0` is not understood (0.3.0 to 1.1.0 are)"),
            ("kind: vendor.com/class", "kind: class", "`kind: class` is not of the form vendor.com/class"),
            ("kind: vendor.com/class", "kind: 1.com/class", "`kind: 1.com/class` is not of the form"),
            ("name: foo", "name: -foo", "`-foo` is no name of a device"),
            ("- name: foo", "- name: foo\n- name: foo", "it has the device `foo` twice"),
            ("FOO=injected", "FOO", "`env: FOO` is not of the form NAME=VALUE"),
            ("path: /dev/foo", "path: dev/foo", "`dev/foo` is no absolute path"),
            ("deviceNodes", "deviceNode", "unknown field `deviceNode`"),
        ] {
            let error = parse(&YAML.replacen(from, to, 1), Format::Yaml).expect_err(to);
            assert!(error.contains(message), "{error}");
        }
    }
}
