//! `rbuild cache ls`: everything that can be removed, with what it keeps.

use std::time::SystemTime;

use rbuild_core::cache::StepRecord;
use rbuild_core::store::{EntryKind, Store, StoreEntry};
use serde_json::{Value, json};

use super::{failed, print_data, print_json, stored, table};
use crate::args::{CacheListArgs, Format};
use crate::error::Failure;
use crate::output::{bytes, visible};
use crate::settings::{Environment, GlobalSettings};

/// How much of a long command is shown, in letters.
const SHORT: usize = 60;

/// How many digits of a name are shown.
const DIGITS: usize = 12;

/// What a store keeps.
pub(super) struct List {
    entries: Vec<Listed>,
    images_bytes: u64,
}

struct Listed {
    entry: StoreEntry,
    about: String,
}

pub(super) fn run(args: &CacheListArgs, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let store = stored::open(global)?;
    let list = list(&store)?;
    if args.format == Format::Json {
        return print_json(&list.to_json());
    }
    print_data(list.text(args.no_trunc, environment.now).as_bytes())
}

/// Reads what the store keeps.
pub(super) fn list(store: &Store) -> Result<List, Failure> {
    let (entries, images_bytes) = store.entries().map_err(|error| failed(&error))?;
    let mounts = store.cache_mounts().map_err(|error| failed(&error))?;
    let about = |entry: &StoreEntry| match entry.kind {
        EntryKind::Step => step_text(store, &entry.name),
        EntryKind::Mount => mounts
            .iter()
            .find(|mount| mount.hash == entry.name)
            .map(|mount| mount.name().to_owned())
            .unwrap_or_default(),
        _ => String::new(),
    };
    let entries = entries.into_iter().map(|entry| Listed { about: about(&entry), entry }).collect();
    Ok(List { entries, images_bytes })
}

impl List {
    fn to_json(&self) -> Value {
        let entries: Vec<Value> = self
            .entries
            .iter()
            .map(|Listed { entry, about }| {
                json!({
                    "kind": kind_name(entry.kind),
                    "name": entry.name,
                    "about": about,
                    "used": jiff::Timestamp::try_from(entry.used).ok().map(|time| time.to_string()),
                    "size_bytes": entry.size_bytes,
                })
            })
            .collect();
        json!({ "entries": entries, "images_bytes": self.images_bytes })
    }

    /// A table for people.
    pub(super) fn text(&self, whole: bool, now: SystemTime) -> String {
        let mut rows: Vec<Vec<String>> = self
            .entries
            .iter()
            .map(|Listed { entry, about }| {
                let used = jiff::Timestamp::try_from(entry.used).ok().map(|time| time.to_string());
                let about = visible(about);
                vec![
                    kind_name(entry.kind).to_owned(),
                    short_name(&entry.name),
                    stored::age(used.as_deref(), now),
                    bytes(entry.size_bytes),
                    if whole { about } else { shorten(&about) },
                ]
            })
            .collect();
        let images = "what named images need";
        rows.push(vec!["images".to_owned(), String::new(), String::new(), bytes(self.images_bytes), images.to_owned()]);
        table(&["KIND", "NAME", "USED", "SIZE", "ABOUT"], &rows)
    }
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Step => "step",
        EntryKind::Note => "note",
        EntryKind::Build => "build",
        EntryKind::Context => "context",
        EntryKind::Mount => "mount",
        _ => "other",
    }
}

/// The instruction of a step: as it was written, or as its inputs tell it where it came from another machine's cache.
fn step_text(store: &Store, key: &str) -> String {
    let Ok(Some(bytes)) = store.peek_step(key) else { return String::new() };
    let Some(record) = StepRecord::from_bytes(&bytes) else { return String::new() };
    if let Some(first) = record.written.text.lines().next() {
        return first.to_owned();
    }
    let input =
        |wanted: &str| record.inputs.inputs().iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let instruction = input("instruction").unwrap_or_default();
    match (input("command"), input("destination")) {
        (Some(command), _) => format!("{instruction} {}", command_text(command)),
        (None, Some(destination)) => format!("{instruction} … {destination}"),
        (None, None) => instruction.to_owned(),
    }
}

/// A command as written, where it was written for a shell.
fn command_text(argv: &str) -> String {
    match serde_json::from_str::<Vec<String>>(argv).ok().as_deref() {
        Some([shell, flag, command]) if shell == "/bin/sh" && flag == "-c" => command.clone(),
        _ => argv.to_owned(),
    }
}

fn short_name(name: &str) -> String {
    let (kind, rest) = name.rsplit_once('/').map_or(("", name), |(kind, rest)| (kind, rest));
    let digits: String = rest.chars().take(DIGITS).collect();
    if kind.is_empty() { digits } else { format!("{kind}/{digits}") }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
