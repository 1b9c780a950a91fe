//! What a store holds, one by one: for people who want to know where the room went.

use std::time::SystemTime;

use super::prune::Record;
use super::{Store, StoreError};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EntryKind {
    /// The result of a step.
    Step,
    /// A small record, such as what a tag stands for, and what only it keeps: a base image's layers.
    Note,
    /// The record of a build.
    Build,
    /// The stat cache of a build context.
    Context,
    /// A cache mount.
    Mount,
}

/// Something in the store that can be removed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name: the key of a step, the identity of a mount; with the kind before it for a note.
    pub name: String,
    /// When it was used last.
    pub used: SystemTime,
    /// The disk space that it takes together with what nothing used later needs, in bytes.
    pub size_bytes: u64,
}

impl Store {
    /// Lists everything that can be removed, the most recently used first, and gives how many bytes named images keep.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn entries(&self) -> Result<(Vec<StoreEntry>, u64), StoreError> {
        let mut records = self.records(true)?;
        records.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        let (weights, images_bytes) = self.weights(&records)?;
        let entries = records.iter().zip(weights).filter_map(|(record, bytes)| self.entry(record, bytes));
        Ok((entries.collect(), images_bytes))
    }

    fn entry(&self, record: &Record, size_bytes: u64) -> Option<StoreEntry> {
        let relative = record.path.strip_prefix(self.root()).ok()?.to_str()?;
        let (folder, name) = relative.split_once('/')?;
        let kind = match folder {
            "steps" => EntryKind::Step,
            "notes" => EntryKind::Note,
            "builds" => EntryKind::Build,
            "contexts" => EntryKind::Context,
            "mounts" => EntryKind::Mount,
            _ => return None,
        };
        Some(StoreEntry { kind, name: name.to_owned(), used: record.used, size_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::super::CacheSharing;
    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn every_entry_has_its_kind_and_what_it_keeps() {
        let (_dir, store) = scratch();
        let blob = store.put_blob(&[1; 100_000], "x/y").unwrap();
        let named = store.put_blob(&[2; 50_000], "x/y").unwrap();
        store.tag("a:b", &named).unwrap();
        store.write_step("key", format!("{} {}", blob.digest, named.digest).as_bytes()).unwrap();
        store.write_note("last", "x", b"key").unwrap();
        store.build_dir("build").unwrap();
        let _mount = store.cache_mount("mount", CacheSharing::Shared, |path| std::fs::write(path.join("a"), "x"));
        let (mut entries, images_bytes) = store.entries().unwrap();
        entries.sort_by_key(|entry| entry.kind);
        let kinds: Vec<_> = entries.iter().map(|entry| (entry.kind, entry.name.split('/').next().unwrap())).collect();
        assert_eq!(
            kinds,
            [
                (EntryKind::Step, "key"),
                (EntryKind::Note, "last"),
                (EntryKind::Build, "build"),
                (EntryKind::Mount, "mount")
            ]
        );
        assert!((100_000..120_000).contains(&entries[0].size_bytes), "{entries:?}");
        assert!((50_000..60_000).contains(&images_bytes), "{images_bytes}");
    }
}
