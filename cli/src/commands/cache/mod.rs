//! `rbuild cache`: what the store holds, how much of it, and keeping it sound and small.

mod check;
mod entries;
mod mounts;

use rbuild_core::store::{Pruned, StoreError};
use serde_json::json;

use super::{namespace, print_data, print_json, stored, table};
use crate::args::{CacheArgs, CacheCommand, CacheDuArgs, CacheLimitArgs, CachePruneArgs, Format};
use crate::error::{Failure, Kind};
use crate::output::{bytes, count};
use crate::settings::{Environment, GlobalSettings, limit_bytes, prune_options};

/// Does it; gives the exit status.
pub(super) fn run(args: &CacheArgs, global: &GlobalSettings, environment: &Environment) -> Result<u8, Failure> {
    // As a build does: files of the store may belong to others outside of the namespace, who let nobody else look or remove.
    namespace::enter(environment)?;
    match &args.command {
        CacheCommand::Du(args) => du(args, global)?,
        CacheCommand::Ls(args) => entries::run(args, global, environment)?,
        CacheCommand::Prune(args) => prune(args, global, environment)?,
        CacheCommand::Check(args) => return check::run(args, global),
        CacheCommand::Limit(args) => limit(args, global)?,
        CacheCommand::Mount(args) => mounts::run(&args.command, global, environment)?,
    }
    Ok(0)
}

/// A failure of the store itself.
fn failed(error: &StoreError) -> Failure {
    let hint = match error {
        StoreError::Busy { .. } => "try again when no build runs",
        _ => "",
    };
    Failure::of(Kind::Environment, error).hint(hint)
}

fn du(args: &CacheDuArgs, global: &GlobalSettings) -> Result<(), Failure> {
    let store = stored::open(global)?;
    let usage = store.usage().map_err(|error| failed(&error))?;
    let limit = store.limit().map_err(|error| failed(&error))?;
    let parts = [
        ("blobs", usage.blobs_bytes),
        ("layers", usage.layers_bytes),
        ("records", usage.records_bytes),
        ("mounts", usage.mounts_bytes),
        ("builds", usage.builds_bytes),
        ("other", usage.other_bytes),
        ("total", usage.total_bytes()),
    ];
    if args.format == Format::Json {
        let mut all: serde_json::Map<String, serde_json::Value> =
            parts.iter().map(|(name, size)| (format!("{name}_bytes"), json!(size))).collect();
        all.insert("limit_bytes".to_owned(), json!(limit));
        return print_json(&all.into());
    }
    let mut rows: Vec<Vec<String>> = parts.iter().map(|(name, size)| vec![(*name).to_owned(), bytes(*size)]).collect();
    if let Some(limit) = limit {
        rows.push(vec!["limit".to_owned(), bytes(limit)]);
    }
    print_data(table(&["WHAT", "SIZE"], &rows).as_bytes())?;
    if global.verbose > 0 {
        let list = entries::list(&store)?;
        print_data(format!("\n{}", list.text(false, std::time::SystemTime::now())).as_bytes())?;
    }
    Ok(())
}

fn prune(args: &CachePruneArgs, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let options = prune_options(args, environment)?;
    let store = stored::open(global)?;
    let Pruned { records, layers, blobs, freed_bytes, in_use } =
        store.prune(&options).map_err(|error| failed(&error))?;
    if args.format == Format::Json {
        return print_json(&json!({
            "records": records, "layers": layers, "blobs": blobs, "freed_bytes": freed_bytes, "in_use": in_use,
            "dry_run": args.dry_run,
        }));
    }
    let number = |number: u64, noun| count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut text = format!(
        "{verb} {}, {} and {}: {}\n",
        number(records, "record"),
        number(layers, "layer"),
        number(blobs, "blob"),
        bytes(freed_bytes)
    );
    if in_use > 0 {
        text.push_str(&format!("left {} that running builds use\n", number(in_use, "object")));
    }
    print_data(text.as_bytes())
}

fn limit(args: &CacheLimitArgs, global: &GlobalSettings) -> Result<(), Failure> {
    let wanted = args.size.as_deref().map(limit_bytes).transpose()?;
    let store = stored::open(global)?;
    if let Some(limit) = wanted {
        return store.set_limit(limit).map_err(|error| failed(&error));
    }
    let limit = store.limit().map_err(|error| failed(&error))?;
    print_data(format!("{}\n", limit.map_or_else(|| "none".to_owned(), bytes)).as_bytes())
}
