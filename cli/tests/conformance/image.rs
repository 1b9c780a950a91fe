//! Reading what a build wrote: the archive's blobs, their digests checked, and the files of all layers together.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::inputs::{MODIFIED, hex_digest};

/// Files by path, each with the facts that are compared.
type Tree = BTreeMap<String, Map<String, Value>>;

const CONFIG_KEYS: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

/// The facts of the image in that archive that are compared, and under `faults` what is wrong with it by itself.
///
/// # Errors
///
/// What makes the archive unreadable as an OCI image layout.
pub(crate) fn facts(archive: &Path, base_layer: &str, case: &Case) -> Result<Value, String> {
    let layout = Layout::open(archive)?;
    let manifest = layout.manifest(case.platform.as_deref())?;
    let config_bytes = layout.blob(&manifest["config"])?;
    let config = parse(&config_bytes)?;
    let ids = strings(&config["rootfs"]["diff_ids"]);
    let descriptors = manifest["layers"].as_array().cloned().unwrap_or_default();
    if ids.len() != descriptors.len() {
        return Err(format!("{} layers but {} diff ids", descriptors.len(), ids.len()));
    }
    let mut layers = Vec::new();
    for (descriptor, id) in descriptors.iter().zip(&ids) {
        let media_type = descriptor["mediaType"].as_str().ok_or("a layer without a media type")?;
        let layer = unpack(media_type, layout.blob(descriptor)?)?;
        if format!("sha256:{}", hex_digest(&layer)) != *id {
            return Err(format!("layer {}: the diff id does not match", descriptor["digest"]));
        }
        layers.push((layer, id == base_layer));
    }
    let mut tree = merged_tree(layers.iter().map(|(bytes, _)| bytes.as_slice()))?;
    let below = merged_tree(layers.iter().filter(|(_, base)| *base).map(|(bytes, _)| bytes.as_slice()))?;
    let gone: BTreeSet<&String> = below.keys().filter(|path| !tree.contains_key(*path)).collect();
    let removed: Vec<String> =
        gone.iter().filter(|path| !gone.contains(&parent(path).to_owned())).map(|path| (*path).clone()).collect();
    tree.retain(|path, entry| below.get(path) != Some(entry));

    let history = config["history"].as_array().cloned().unwrap_or_default();
    let text = String::from_utf8_lossy(&config_bytes);
    let faults: Vec<String> = case
        .config_omits
        .iter()
        .filter(|word| text.contains(word.as_str()))
        .map(|word| format!("the configuration holds {word:?}"))
        .collect();
    let inner: Map<String, Value> = CONFIG_KEYS
        .iter()
        .filter(|key| !is_empty(&config["config"][**key]))
        .map(|key| ((*key).to_owned(), config["config"][*key].clone()))
        .collect();
    let platform: Vec<&str> = ["os", "architecture", "variant"]
        .iter()
        .filter_map(|key| config[*key].as_str())
        .filter(|s| !s.is_empty())
        .collect();
    let mut facts = json!({
        "faults": faults,
        "config": inner,
        "platform": platform.join("/"),
        "author": config["author"].as_str().unwrap_or_default(),
        "tree": tree,
        "removed": removed,
        "shape": {
            "layers": layers.len(),
            "history_empty": history.iter().map(|h| h["empty_layer"].as_bool().unwrap_or(false)).collect::<Vec<_>>(),
        },
    });
    if case.compare_created {
        facts["created"] = [&config].into_iter().chain(&history).map(|part| part["created"].clone()).collect();
    }
    Ok(facts)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))
}

/// The files of an OCI image layout in an archive.
struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    fn open(archive: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(archive).map_err(|error| format!("no archive: {error}"))?;
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().map_err(text_of)? {
            let mut entry = entry.map_err(text_of)?;
            let mut data = Vec::new();
            entry.read_to_end(&mut data).map_err(text_of)?;
            files.insert(normal(&String::from_utf8_lossy(&entry.path_bytes())), data);
        }
        Ok(Self(files))
    }

    fn file(&self, name: &str) -> Result<&[u8], String> {
        self.0.get(name).map(Vec::as_slice).ok_or_else(|| format!("the archive has no {name}"))
    }

    fn blob(&self, descriptor: &Value) -> Result<Vec<u8>, String> {
        let digest = descriptor["digest"].as_str().ok_or("a descriptor without a digest")?;
        let hex = digest.strip_prefix("sha256:").ok_or_else(|| format!("a digest of another kind: {digest}"))?;
        let data = self.file(&format!("blobs/sha256/{hex}"))?;
        if hex_digest(data) != hex || descriptor["size"].as_u64() != Some(data.len() as u64) {
            return Err(format!("blob {digest} does not match its descriptor"));
        }
        Ok(data.to_vec())
    }

    /// The manifest for that platform, or the first one of an image.
    fn manifest(&self, platform: Option<&str>) -> Result<Value, String> {
        if parse(self.file("oci-layout")?)?["imageLayoutVersion"] != "1.0.0" {
            return Err("oci-layout: wrong imageLayoutVersion".to_owned());
        }
        let mut index = parse(self.file("index.json")?)?;
        while index.get("layers").is_none() {
            let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
            let found: Vec<&Value> = manifests.iter().filter(|m| m["platform"]["os"] != "unknown").collect();
            let wanted = found.iter().find(|manifest| {
                let of = |key: &str| manifest["platform"][key].as_str().unwrap_or("None").to_owned();
                platform.is_none_or(|platform| platform == format!("{}/{}", of("os"), of("architecture")))
            });
            let next = wanted.or(found.first()).ok_or("an index without images")?;
            index = parse(&self.blob(next)?)?;
        }
        Ok(index)
    }
}

fn text_of(error: std::io::Error) -> String {
    error.to_string()
}

fn unpack(media_type: &str, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if media_type.ends_with("gzip") {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(text_of)?;
        return Ok(plain);
    }
    if media_type.ends_with("zstd") {
        return zstd::decode_all(bytes.as_slice()).map_err(text_of);
    }
    Ok(bytes)
}

/// A path without `.`, `..`, doubled slashes and a leading one.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Applies the layers in turn, as the image specification says.
fn merged_tree<'a>(layers: impl Iterator<Item = &'a [u8]>) -> Result<Tree, String> {
    let mut tree = Tree::new();
    for layer in layers {
        // What this layer brings, which its own whiteouts never hide.
        let mut brought = BTreeSet::new();
        for entry in tar::Archive::new(layer).entries().map_err(text_of)? {
            let mut entry = entry.map_err(text_of)?;
            let path = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            let name = path.rsplit('/').next().unwrap_or_default();
            if let Some(hidden) = name.strip_prefix(".wh.") {
                let opaque = hidden == ".wh..opq";
                let gone = if opaque { parent(&path).to_owned() } else { join(parent(&path), hidden) };
                let inside = if gone.is_empty() { String::new() } else { format!("{gone}/") };
                tree.retain(|p, _| brought.contains(p) || !(p.starts_with(&inside) || (*p == gone && !opaque)));
                continue;
            }
            let facts = entry_facts(&mut entry, &mut tree)?;
            let is_folder = |facts: &Map<String, Value>| facts["type"] == "dir";
            if tree.get(&path).is_some_and(|old| is_folder(old) != is_folder(&facts)) {
                let inside = format!("{path}/");
                tree.retain(|p, _| !p.starts_with(&inside));
            }
            brought.insert(path.clone());
            tree.insert(path, facts);
        }
    }
    tree.remove("");
    Ok(tree)
}

fn entry_facts(entry: &mut tar::Entry<'_, &[u8]>, tree: &mut Tree) -> Result<Map<String, Value>, String> {
    let mut xattrs = Map::new();
    let mut modified = entry.header().mtime().map_err(text_of)?;
    for extension in entry.pax_extensions().map_err(text_of)?.into_iter().flatten() {
        let extension = extension.map_err(text_of)?;
        let value = String::from_utf8_lossy(extension.value_bytes()).into_owned();
        let key = extension.key().map_err(|error| error.to_string())?;
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), value.into());
        } else if key == "mtime" {
            modified = value.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        }
    }
    let header = entry.header();
    let kind = header.entry_type();
    let of_link = |entry: &tar::Entry<'_, &[u8]>| {
        String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned()
    };
    if kind == tar::EntryType::Link {
        let target = normal(&of_link(entry));
        let Some(original) = tree.get_mut(&target) else {
            return Ok(Map::from_iter([("type".to_owned(), json!("broken-hardlink"))]));
        };
        original.entry("hardlink").or_insert(json!(target));
        return Ok(original.clone());
    }
    let mut facts = Map::new();
    facts.insert("mode".to_owned(), format!("{:04o}", header.mode().map_err(text_of)? & 0o7777).into());
    facts.insert("uid".to_owned(), header.uid().map_err(text_of)?.into());
    facts.insert("gid".to_owned(), header.gid().map_err(text_of)?.into());
    if modified == MODIFIED.unsigned_abs() && kind != tar::EntryType::Directory {
        facts.insert("mtime".to_owned(), json!("context"));
    }
    if !xattrs.is_empty() {
        facts.insert("xattrs".to_owned(), xattrs.into());
    }
    // Entries that are no devices may leave these fields empty.
    let device = [header.device_major(), header.device_minor()].map(|number| number.ok().flatten().unwrap_or(0));
    let name = match kind {
        tar::EntryType::Directory => "dir",
        tar::EntryType::Symlink => {
            facts.insert("target".to_owned(), of_link(entry).into());
            "symlink"
        }
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let mut data = Vec::new();
            entry.read_to_end(&mut data).map_err(text_of)?;
            facts.insert("size".to_owned(), data.len().into());
            facts.insert("sha256".to_owned(), hex_digest(&data).into());
            if data.len() < 2000 {
                facts.insert("text".to_owned(), String::from_utf8_lossy(&data).into());
            }
            "file"
        }
        other => {
            facts.insert("dev".to_owned(), json!(device));
            match other {
                tar::EntryType::Char => "char",
                tar::EntryType::Block => "block",
                tar::EntryType::Fifo => "fifo",
                _ => "other",
            }
        }
    };
    facts.insert("type".to_owned(), name.into());
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Files;
    use crate::inputs::archive;

    fn paths(layers: &[&str]) -> Vec<String> {
        let layers: Vec<Vec<u8>> =
            layers.iter().map(|files| archive(&files.parse::<Files>().expect("TOML"), None)).collect();
        merged_tree(layers.iter().map(Vec::as_slice)).expect("layers").into_keys().collect()
    }

    #[test]
    fn whiteouts_hide_what_lies_below() {
        let below = "'a/' = {}\n'a/b' = 'x'\n'a/c' = 'x'\nd = 'x'";
        assert_eq!(paths(&[below, "'a/.wh.b' = ''"]), ["a", "a/c", "d"]);
        assert_eq!(paths(&[below, "'.wh.a' = ''"]), ["d"]);
        assert_eq!(paths(&[below, "'a/n' = ''\n'a/.wh..wh..opq' = ''"]), ["a", "a/n", "d"]);
        assert_eq!(paths(&[below, "'.wh..wh..opq' = ''\nn = ''"]), ["n"]);
        assert_eq!(paths(&[below, "a = 'a file now'"]), ["a", "d"]);
    }
}
