//! A case: what is built, and with which flags; its keys are explained in testdata/conformance/README.md.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One TOML file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) about: String,
    #[serde(default, rename = "tags")]
    pub(crate) _tags: Vec<String>,
    pub(crate) dockerfile: String,
    pub(crate) dockerfile_name: Option<String>,
    #[serde(default)]
    pub(crate) files: Files,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Files>,
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default = "yes")]
    pub(crate) base: bool,
    pub(crate) base_config: Option<toml::Table>,
    #[serde(default)]
    pub(crate) check: bool,
    #[serde(default)]
    pub(crate) error_mentions: Vec<String>,
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    #[serde(default = "yes")]
    pub(crate) compare_shape: bool,
    #[serde(default)]
    pub(crate) compare_created: bool,
    #[serde(default)]
    pub(crate) config_omits: Vec<String>,
    #[serde(default)]
    pub(crate) compare_hardlinks: bool,
    pub(crate) platform: Option<String>,
    pub(crate) timeout: Option<u64>,
}

fn yes() -> bool {
    true
}

/// Files by path, in the order of the case: in an archive the later one wins.
pub(crate) type Files = toml::Table;

/// One file, link or folder of a context or archive.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) text: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<usize>,
    pub base64: Option<String>,
    pub(crate) symlink: Option<String>,
    pub(crate) hardlink: Option<String>,
    pub(crate) fifo: Option<bool>,
    pub(crate) tar: Option<Files>,
    pub(crate) compress: Option<String>,
    #[serde(default)]
    pub(crate) xattrs: BTreeMap<String, String>,
}

impl File {
    /// Reads `"text"` or `{ text = "...", ... }`.
    pub(crate) fn read(value: &toml::Value) -> Self {
        match value {
            toml::Value::String(text) => Self { text: Some(text.clone()), ..Self::default() },
            other => other.clone().try_into().expect("a file of a case has known keys"),
        }
    }

    /// The permission bits, with a default for files that do not say.
    pub(crate) fn mode_or(&self, default: u32) -> u32 {
        self.mode.as_ref().map_or(default, |mode| u32::from_str_radix(mode, 8).expect("a mode is octal"))
    }
}

impl Case {
    /// Whether making the inputs takes root: files that belong to somebody else.
    pub(crate) fn needs_root(&self) -> bool {
        [&self.files].into_iter().chain(self.contexts.values()).flat_map(toml::Table::values).any(|file| {
            let file = file.as_table();
            file.is_some_and(|file| file.contains_key("uid") || file.contains_key("gid"))
        })
    }
}
