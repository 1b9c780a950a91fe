//! `rbuild cache mount`: the folders of `RUN --mount=type=cache`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rbuild_core::exec::{cache_mount_hash, export_cache_mount, import_cache_mount};
use rbuild_core::store::{MountAbout, Store, StoredMount};
use serde_json::{Value, json};

use super::{failed, print_data, print_json, stored, table};
use crate::args::{Format, MountCommand, MountExportArgs, MountImportArgs, MountListArgs, MountRemoveArgs};
use crate::error::{Failure, Kind, of_core};
use crate::output::{bytes, visible};
use crate::settings::{Environment, GlobalSettings};

/// The fewest digits that may stand for a whole hash.
const LEAST_DIGITS: usize = 6;

pub(super) fn run(command: &MountCommand, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let store = stored::open(global)?;
    match command {
        MountCommand::Ls(args) => list(args, &store, environment),
        MountCommand::Rm(args) => remove(args, &store),
        MountCommand::Export(args) => export(args, &store),
        MountCommand::Import(args) => import(args, &store),
    }
}

fn list(args: &MountListArgs, store: &Store, environment: &Environment) -> Result<(), Failure> {
    let mounts = store.cache_mounts().map_err(|error| failed(&error))?;
    let used = |mount: &StoredMount| jiff::Timestamp::try_from(mount.used).ok().map(|time| time.to_string());
    if args.format == Format::Json {
        let mounts: Vec<Value> = mounts
            .iter()
            .map(|mount| {
                json!({
                    "id": mount.about.as_ref().map(|about| &about.id),
                    "namespace": mount.about.as_ref().map(|about| &about.namespace),
                    "hash": mount.hash,
                    "used": used(mount),
                    "size_bytes": mount.size_bytes,
                })
            })
            .collect();
        return print_json(&Value::Array(mounts));
    }
    let rows: Vec<Vec<String>> = mounts
        .iter()
        .map(|mount| {
            let id = mount.about.as_ref().map(|about| visible(&about.id)).unwrap_or_default();
            let hash = mount.hash.chars().take(12).collect();
            vec![id, hash, stored::age(used(mount).as_deref(), environment.now), bytes(mount.size_bytes)]
        })
        .collect();
    print_data(table(&["ID", "HASH", "USED", "SIZE"], &rows).as_bytes())
}

fn remove(args: &MountRemoveArgs, store: &Store) -> Result<(), Failure> {
    let mounts = store.cache_mounts().map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    // All are looked up before the first is removed, so that a wrong one leaves everything as it was.
    for id in &args.ids {
        let same = find(&mounts, id);
        if same.is_empty() {
            return Err(missing(id));
        }
        found.extend(same);
    }
    for mount in found {
        if !store.remove_unused_cache_mount(&mount.hash).map_err(|error| failed(&error))? {
            return Err(Failure::new(Kind::Environment, format!("cannot remove the cache `{}`", mount.name()))
                .hint("a running build uses it; try again when that build is done"));
        }
        print_data(format!("{}\n", visible(mount.name())).as_bytes())?;
    }
    Ok(())
}

fn export(args: &MountExportArgs, store: &Store) -> Result<(), Failure> {
    let mounts = store.cache_mounts().map_err(|error| failed(&error))?;
    let hash = only(&mounts, &args.id)?.ok_or_else(|| missing(&args.id))?.hash.clone();
    let written = if args.output == Path::new("-") {
        export_cache_mount(store, &hash, &mut io::stdout().lock())
    } else {
        let mut file = File::create(&args.output).map_err(|error| {
            Failure::caused(Kind::Environment, format!("cannot write `{}`", args.output.display()), &error)
        })?;
        export_cache_mount(store, &hash, &mut file)
    };
    written.map_err(|error| of_core(&error))
}

fn import(args: &MountImportArgs, store: &Store) -> Result<(), Failure> {
    let mounts = store.cache_mounts().map_err(|error| failed(&error))?;
    let new = MountAbout { id: args.id.clone(), namespace: String::new() };
    let (hash, about) = match only(&mounts, &args.id)? {
        Some(mount) => (mount.hash.clone(), mount.about.clone().unwrap_or(new)),
        None => (cache_mount_hash(&args.id), new),
    };
    let archive: Box<dyn Read + Send> = if args.file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.file).map_err(|error| {
            Failure::caused(Kind::Usage, format!("cannot read the archive `{}`", args.file.display()), &error)
        })?)
    };
    import_cache_mount(store, &hash, &about, archive).map_err(|error| {
        of_core(&error).hint(format!("the archive is `{}`; the cache is as it was", args.file.display()))
    })
}

/// The caches with an id, or else the one whose hash begins with these digits.
fn find<'m>(mounts: &'m [StoredMount], id: &str) -> Vec<&'m StoredMount> {
    let named: Vec<_> =
        mounts.iter().filter(|mount| mount.about.as_ref().is_some_and(|about| about.id == id)).collect();
    if !named.is_empty() {
        return named;
    }
    mounts.iter().filter(|mount| id.len() >= LEAST_DIGITS && mount.hash.starts_with(id)).collect()
}

/// The cache that an id means, if it exists; several can't be meant.
fn only<'m>(mounts: &'m [StoredMount], id: &str) -> Result<Option<&'m StoredMount>, Failure> {
    match &find(mounts, id)[..] {
        [] => Ok(None),
        [mount] => Ok(Some(mount)),
        several => Err(Failure::new(Kind::Usage, format!("there are {} caches `{id}`", several.len())).hint(
            "they differ in owner, mode or first content; name one by its hash, which `rbuild cache mount ls` shows",
        )),
    }
}

fn missing(id: &str) -> Failure {
    Failure::new(Kind::Build, format!("there is no cache mount `{id}`"))
        .hint("`rbuild cache mount ls` lists the cache mounts that there are")
}
