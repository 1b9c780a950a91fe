//! `rbuild history`: the steps that made an image, the latest first.

use serde_json::{Value, json};

use super::{print_data, print_json, stored, table};
use crate::args::{Format, HistoryArgs};
use crate::error::{Failure, Kind};
use crate::output::{bytes, visible};
use crate::settings::{Environment, GlobalSettings};

/// How much of a long command is shown, in letters.
const SHORT: usize = 60;

pub(super) fn run(args: &HistoryArgs, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let store = stored::open(global)?;
    let found = stored::find(&store, &args.reference)?;
    let first = found.first().expect("a search that finds nothing is an error");
    let image = stored::for_this_machine(stored::platforms(&store, &first.descriptor)?)
        .ok_or_else(|| Failure::new(Kind::Build, format!("the image `{}` has no manifest here", args.reference)))?;
    let mut layers = image.layers().into_iter();
    let mut records: Vec<Value> = image
        .config
        .history
        .iter()
        .map(|entry| {
            let layer = if entry.empty_layer { None } else { layers.next() };
            json!({
                "created": entry.created,
                "created_by": entry.created_by,
                "comment": entry.comment,
                "layer": layer.as_ref().map(|layer| layer.digest.to_string()),
                "size_bytes": layer.map_or(0, |layer| layer.size),
            })
        })
        .collect();
    records.reverse();
    if args.format == Format::Json {
        return print_json(&Value::Array(records));
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let command = visible(record["created_by"].as_str().unwrap_or_default());
            let command = if args.no_trunc { command } else { shorten(&command) };
            vec![
                stored::age(record["created"].as_str(), environment.now),
                bytes(record["size_bytes"].as_u64().unwrap_or_default()),
                command,
            ]
        })
        .collect();
    print_data(table(&["CREATED", "SIZE", "CREATED BY"], &rows).as_bytes())
}

/// The beginning of a long command.
pub(super) fn shorten(command: &str) -> String {
    match command.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_commands_are_cut_between_letters() {
        assert_eq!(super::shorten("short"), "short");
        assert_eq!(super::shorten(&"ü".repeat(70)).chars().count(), 61);
    }
}
