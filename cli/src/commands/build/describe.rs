//! `--call=subrequests.describe`: what can be asked of a Dockerfile besides building it.

use serde_json::{Value, json};

use super::calls::columns;
use crate::commands::{print_data, print_json};
use crate::error::Failure;

/// How the methods are called inside; `--call` takes what stands behind it.
const PREFIX: &str = "frontend.";

/// One method.
struct Method {
    name: &'static str,
    description: &'static str,
    /// Options that it takes: name and meaning.
    options: &'static [(&'static str, &'static str)],
    /// What it answers with.
    results: &'static [&'static str],
}

/// COMPAT(buildkit): `lint`, which `--call=check` asks for, is not in its list.
const METHODS: [Method; 3] = [
    Method {
        name: "outline",
        description: "List all parameters current build target supports",
        options: &[("target", "Target build stage")],
        results: &["result.json", "result.txt"],
    },
    Method {
        name: "targets",
        description: "List all targets current build supports",
        options: &[],
        results: &["result.json", "result.txt"],
    },
    Method {
        name: "subrequests.describe",
        description: "List available subrequest types",
        options: &[],
        results: &["result.json", "result.txt"],
    },
];

/// The version of every method's answer.
const VERSION: &str = "1.0.0";

/// Prints the methods in the forms that `docker buildx build` prints.
pub(super) fn describe(as_json: bool) -> Result<(), Failure> {
    if as_json { print_json(&as_data()) } else { print_data(as_text().as_bytes()) }
}

fn as_data() -> Value {
    let methods = METHODS.iter().map(|method| {
        let options: Vec<_> =
            method.options.iter().map(|(name, text)| json!({ "name": name, "description": text })).collect();
        let results: Vec<_> = method.results.iter().map(|name| json!({ "name": name, "description": "" })).collect();
        json!({
            "name": format!("{PREFIX}{}", method.name), "version": VERSION, "type": "rpc",
            "description": method.description, "opts": options, "metadata": results,
        })
    });
    methods.collect()
}

fn as_text() -> String {
    let head = ["NAME", "VERSION", "DESCRIPTION"];
    let rows = METHODS.iter().map(|method| [method.name, VERSION, method.description]);
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows).map(|row| row.map(str::to_owned).to_vec()).collect();
    columns(&rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_listed_in_columns() {
        let text = as_text();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("NAME                 VERSION DESCRIPTION"));
        assert_eq!(
            lines.next(),
            Some("outline              1.0.0   List all parameters current build target supports")
        );
        assert_eq!(text.lines().count(), METHODS.len() + 1);
    }

    #[test]
    fn methods_are_data_under_their_full_names() {
        let data = as_data();
        assert_eq!(data[0]["name"], "frontend.outline");
        assert_eq!(data[0]["opts"][0]["name"], "target");
        assert_eq!(data[2]["metadata"][1]["name"], "result.txt");
    }
}
