//! `--call=targets` and `--call=outline`: what can be built, and what a build of it takes.
//!
//! Both are read off the Dockerfile alone, in the forms that `docker buildx build` prints.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_core::exec::BuildOptions;
use rbuild_dockerfile::instruction::Arg;
use rbuild_dockerfile::lint::{JsonLocation, JsonPosition, JsonRange, JsonReport, LintOutcome};
use rbuild_dockerfile::mount::{Mount, MountType, parse_mount_constant};
use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Instruction, Node, Stage, find_stage, nearest};
use serde_json::{Map, Value, json};

use crate::commands::{print_data, print_json};
use crate::error::{Failure, Kind};

/// Prints the stages that can be built.
pub(super) fn targets(file: &Dockerfile, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let stages: Vec<Value> = file.stages.iter().map(|stage| target_json(file, stage)).collect();
        return print_json(&json!({ "targets": stages, "sources": [source(file)] }));
    }
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for stage in &file.stages {
        let name = match (&stage.name, is_default(file, stage)) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            // A stage without a name is found by its number.
            (None, false) => stage.index.to_string(),
        };
        rows.push(vec![name, stage_description(file, stage)]);
    }
    print_data(columns(&rows, 1).as_bytes())
}

fn is_default(file: &Dockerfile, stage: &Stage) -> bool {
    stage.index + 1 == file.stages.len()
}

fn target_json(file: &Dockerfile, stage: &Stage) -> Value {
    let mut target = Map::new();
    let mut text = |key: &str, value: &str| {
        if !value.is_empty() {
            target.insert(key.to_owned(), value.into());
        }
    };
    text("name", stage.name.as_deref().unwrap_or_default());
    text("description", &stage_description(file, stage));
    text("base", &stage.base.text);
    text("platform", stage.platform.as_ref().map_or("", |platform| platform.text.as_str()));
    if is_default(file, stage) {
        target.insert("default".to_owned(), true.into());
    }
    target.insert("location".to_owned(), location(file.from_node(stage)));
    Value::Object(target)
}

/// What the comment right above FROM says: `# name text`.
fn stage_description(file: &Dockerfile, stage: &Stage) -> String {
    stage.name.as_ref().map(|name| description(file.from_node(stage), name)).unwrap_or_default()
}

/// The text behind the name in a comment right above, the last one that begins with it.
fn description(node: &Node, name: &str) -> String {
    let of_name = |text: &str| text.strip_prefix(name)?.strip_prefix(' ').map(|rest| rest.trim().to_owned());
    node.comments.iter().rev().find_map(|comment| of_name(&comment.text)).unwrap_or_default()
}

fn location(node: &Node) -> Value {
    let range =
        JsonRange { start: JsonPosition { line: node.lines.first }, end: JsonPosition { line: node.lines.last } };
    serde_json::to_value(JsonLocation { source: 0, ranges: vec![range] }).expect("a location has string keys only")
}

/// What a build of one target takes.
#[derive(Debug, Default)]
struct Outline<'a> {
    arguments: Vec<Argument<'a>>,
    secrets: Vec<Needed<'a>>,
    agents: Vec<Needed<'a>>,
    caches: Vec<(String, &'a Node)>,
}

/// A build argument that something refers to.
#[derive(Debug, Clone)]
struct Argument<'a> {
    name: String,
    value: String,
    node: &'a Node,
    uses: BTreeSet<String>,
}

/// A secret or an agent that a RUN mounts.
#[derive(Debug)]
struct Needed<'a> {
    id: String,
    required: bool,
    node: &'a Node,
}

/// Prints what a build of the target takes: arguments, secrets, agents.
pub(super) fn outline(file: &Dockerfile, options: &BuildOptions, as_json: bool) -> Result<(), Failure> {
    let target = target(file, options.target.as_deref())?;
    let mut outline = Outline::default();
    for index in reached(file, target.index) {
        outline.add_stage(file, &file.stages[index], &options.build_args);
    }
    outline.arguments.sort_by_key(|argument| argument.node.span.start);
    outline.secrets.sort_by_key(|needed| needed.node.span.start);
    outline.agents.sort_by_key(|needed| needed.node.span.start);
    if as_json { print_json(&outline.json(file, target)) } else { print_data(outline.text(file, target).as_bytes()) }
}

fn target<'a>(file: &'a Dockerfile, name: Option<&str>) -> Result<&'a Stage, Failure> {
    let found = match name {
        None => file.stages.last(),
        Some(name) => file.stages.iter().rfind(|stage| stage.name.as_deref() == Some(&name.to_lowercase())),
    };
    found.ok_or_else(|| {
        let name = name.unwrap_or_default();
        let names = file.stages.iter().filter_map(|stage| stage.name.as_deref());
        let near = nearest(&name.to_lowercase(), names).map(|name| format!("there is a stage `{name}`"));
        Failure::new(Kind::Build, format!("target stage `{name}` could not be found")).hint(near.unwrap_or_default())
    })
}

/// The stages that a target needs, itself first.
fn reached(file: &Dockerfile, target: usize) -> Vec<usize> {
    let mut order = vec![target];
    let mut next = 0;
    while let Some(&index) = order.get(next) {
        let stage = &file.stages[index];
        let mut names = vec![stage.base.text.clone()];
        for node in file.stage_nodes(stage) {
            match &node.instruction {
                Some(Instruction::Copy(copy)) => names.extend(copy.from.iter().map(|from| from.text.clone())),
                Some(Instruction::Run(_)) => names.extend(mounts(node).map(|mount| mount.from)),
                _ => {}
            }
        }
        for name in names {
            let found = find_stage(&file.stages, &name, index).map(|stage| stage.index);
            if let Some(found) = found.filter(|found| !order.contains(found)) {
                order.push(found);
            }
        }
        next += 1;
    }
    order
}

fn mounts(node: &Node) -> impl Iterator<Item = Mount> {
    let mounts = match &node.instruction {
        Some(Instruction::Run(run)) => run.mounts.as_slice(),
        _ => &[],
    };
    mounts.iter().filter_map(|mount| parse_mount_constant(&mount.text).ok())
}

/// The names behind `$` and `${` in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect::<String>()
    };
    text.split('$').skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

impl<'a> Outline<'a> {
    fn add_stage(&mut self, file: &'a Dockerfile, stage: &'a Stage, given: &BTreeMap<String, String>) {
        let mut declared: BTreeMap<String, Argument<'a>> = BTreeMap::new();
        for (node, arg) in file.global_arg_nodes() {
            declare(&mut declared, file, node, arg, given);
        }
        let mut used = variables(&file.from_node(stage).text);
        for node in file.stage_nodes(stage) {
            if let Some(Instruction::Arg(arg)) = &node.instruction {
                declare(&mut declared, file, node, arg, given);
            } else {
                used.append(&mut variables(&node.text));
                node.heredocs.iter().for_each(|heredoc| used.append(&mut variables(&heredoc.body)));
            }
            self.add_mounts(node);
        }
        let mut open: Vec<String> = used.into_iter().collect();
        while let Some(name) = open.pop() {
            let Some(argument) = declared.remove(&name) else { continue };
            open.extend(argument.uses.iter().cloned());
            if !self.arguments.iter().any(|known| known.name == name) {
                self.arguments.push(argument);
            }
        }
    }

    fn add_mounts(&mut self, node: &'a Node) {
        for mount in mounts(node) {
            let id = mount.effective_id();
            let list = match mount.kind {
                MountType::Secret => &mut self.secrets,
                MountType::Ssh => &mut self.agents,
                MountType::Cache => {
                    if !self.caches.iter().any(|(known, _)| *known == id) {
                        self.caches.push((id, node));
                    }
                    continue;
                }
                MountType::Bind | MountType::Tmpfs => continue,
            };
            match list.iter_mut().find(|known| known.id == id) {
                Some(known) => known.required |= mount.required,
                None => list.push(Needed { id, required: mount.required, node }),
            }
        }
    }

    fn text(&self, file: &Dockerfile, target: &Stage) -> String {
        let mut parts = Vec::new();
        let about = stage_description(file, target);
        if let Some(name) = &target.name {
            let mut rows = vec![vec!["TARGET:".to_owned(), name.clone()]];
            if !about.is_empty() {
                rows.push(vec!["DESCRIPTION:".to_owned(), about]);
            }
            parts.push(columns(&rows, 1));
        }
        let table = |head: &[&str], rows: Vec<Vec<String>>| {
            let head = head.iter().map(|cell| (*cell).to_owned()).collect();
            if rows.is_empty() { String::new() } else { columns(&[vec![head], rows].concat(), 3) }
        };
        let arguments = self.arguments.iter().map(|argument| {
            vec![argument.name.clone(), argument.value.clone(), description(argument.node, &argument.name)]
        });
        parts.push(table(&["BUILD ARG", "VALUE", "DESCRIPTION"], arguments.collect()));
        for (head, list) in [("SECRET", &self.secrets), ("SSH", &self.agents)] {
            let required = |needed: &Needed<'_>| if needed.required { "true".to_owned() } else { String::new() };
            let rows = list.iter().map(|needed| vec![needed.id.clone(), required(needed)]);
            parts.push(table(&[head, "REQUIRED"], rows.collect()));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }

    fn json(&self, file: &Dockerfile, target: &Stage) -> Value {
        let mut outline = Map::new();
        let mut add = |key: &str, value: Value| {
            let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_str().is_some_and(str::is_empty);
            if !empty {
                outline.insert(key.to_owned(), value);
            }
        };
        add("name", target.name.clone().unwrap_or_default().into());
        add("description", stage_description(file, target).into());
        let arguments: Vec<Value> = self.arguments.iter().map(Argument::json).collect();
        add("args", arguments.into());
        for (key, list) in [("secrets", &self.secrets), ("ssh", &self.agents)] {
            let list: Vec<Value> = list.iter().map(Needed::json).collect();
            add(key, list.into());
        }
        let caches = self.caches.iter().map(|(id, node)| json!({ "ID": id, "location": location(node) }));
        add("cache", caches.collect::<Vec<_>>().into());
        add("sources", vec![source(file)].into());
        Value::Object(outline)
    }
}

impl Argument<'_> {
    fn json(&self) -> Value {
        let mut value = json!({ "name": self.name, "location": location(self.node) });
        for (key, text) in [("description", description(self.node, &self.name)), ("value", self.value.clone())] {
            if !text.is_empty() {
                value[key] = text.into();
            }
        }
        value
    }
}

impl Needed<'_> {
    fn json(&self) -> Value {
        let mut value = json!({ "name": self.id, "location": location(self.node) });
        if self.required {
            value["required"] = true.into();
        }
        value
    }
}

/// Takes note of what an ARG declares: its value is the given one, its default, or what the file's top says.
fn declare<'a>(
    declared: &mut BTreeMap<String, Argument<'a>>,
    file: &Dockerfile,
    node: &'a Node,
    arg: &Arg,
    given: &BTreeMap<String, String>,
) {
    for declaration in &arg.declarations {
        let name = declaration.name.text.clone();
        let default = declaration.default.as_ref();
        let value = given.get(&name).cloned().or_else(|| {
            let lookup = |name: &str| declared.get(name).map(|argument| argument.value.clone());
            default.map(|word| expand(&word.text, file.escape(), &lookup).map_or(word.text.clone(), |done| done.text))
        });
        let value = value.or_else(|| declared.get(&name).map(|above| above.value.clone())).unwrap_or_default();
        let uses = default.map(|word| variables(&word.text)).unwrap_or_default();
        declared.insert(name.clone(), Argument { name, value, node, uses });
    }
}

/// Lays rows out in columns that stand `gap` blanks apart.
pub(super) fn columns(rows: &[Vec<String>], gap: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default() + gap).collect();
    let mut text = String::new();
    for row in rows {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

/// The file's text in the form that reports hold it in.
fn source(file: &Dockerfile) -> String {
    let report = JsonReport::new(&LintOutcome::default(), file, "");
    report.sources.into_iter().map(|source| source.data).collect()
}
