use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tree::merged::tests::{Item, directory, file, hard_link, merged, opaque, symlink, whiteout};
use crate::tree::{Entry, TreeView};

fn delta(base: &[Item], layer: &[Item]) -> Option<Delta> {
    let tree = |items: &[Item]| Tree::build(items.iter().map(|(entry, _)| entry.clone()).collect());
    Delta::over(&tree(base), tree(layer).iter()).unwrap()
}

/// The paths that a delta holds, or `none`.
fn held(base: &[Item], layer: &[Item]) -> String {
    let Some(delta) = delta(base, layer) else { return "none".to_owned() };
    let held = layer.iter().zip(delta.holds()).filter(|(_, holds)| **holds);
    held.map(|((entry, _), _)| entry.entry.path.to_string()).collect::<Vec<_>>().join(" ")
}

fn with_mode(mut item: Item, mode: u32) -> Item {
    item.0.entry.metadata.mode = mode;
    item
}

#[test]
fn what_differs_is_held_with_the_directories_that_lead_there() {
    let base = [directory("a"), directory("a/b"), file("a/b/c", "1"), file("a/x", "2"), symlink("l", "a")];
    let [a, b, c, x, l] = base.clone();
    for (what, layer, want) in [
        ("nothing", vec![a.clone(), b.clone(), c.clone(), x.clone(), l.clone()], ""),
        ("content", vec![a.clone(), b.clone(), file("a/b/c", "3"), x.clone(), l.clone()], "/a /a/b /a/b/c"),
        ("mode", vec![a.clone(), b.clone(), c.clone(), with_mode(x.clone(), 0o600), l.clone()], "/a /a/x"),
        ("directory", vec![a.clone(), with_mode(b.clone(), 0o700), c.clone(), x.clone(), l.clone()], "/a /a/b"),
        ("link", vec![a.clone(), b.clone(), c.clone(), x.clone(), symlink("l", "x")], "/l"),
        ("another kind", vec![a.clone(), b.clone(), symlink("a/b/c", "x"), x.clone(), l.clone()], "/a /a/b /a/b/c"),
        ("added", vec![a.clone(), b.clone(), c.clone(), file("a/n", ""), x.clone(), l.clone()], "/a /a/n"),
        ("removed", vec![a.clone(), b.clone(), c.clone(), x.clone()], "none"),
        ("renamed", vec![a.clone(), b.clone(), file("a/b/d", "1"), x.clone(), l.clone()], "none"),
        ("directory for a link", vec![a.clone(), b.clone(), c.clone(), x.clone(), directory("l")], "none"),
        ("mark", vec![a.clone(), b.clone(), c.clone(), whiteout("a/n"), x.clone(), l.clone()], "none"),
        ("opaque", vec![opaque("a"), b.clone(), c.clone(), x.clone(), l.clone()], "none"),
    ] {
        assert_eq!(held(&base, &layer), want, "{what}");
    }
    assert_eq!(held(&[a.clone(), b.clone(), c.clone()], &[a, file("a/b", "")]), "none", "a file for a directory");
}

#[test]
fn names_of_one_file_are_not_separated() {
    let linked = [file("a", "1"), hard_link("b", "a"), file("c", "1")];
    let [a, b, c] = linked.clone();
    assert_eq!(held(&linked, &linked), "");
    assert_eq!(held(&linked, &[a.clone(), b.clone(), file("c", "2")]), "/c");
    assert_eq!(held(&linked, &[file("a", "2"), b.clone(), c.clone()]), "none");
    assert_eq!(held(&linked, &[a.clone(), file("b", "1"), c.clone()]), "none");
    assert_eq!(held(&linked, &[a.clone(), b.clone(), hard_link("c", "a")]), "none");
    assert_eq!(held(&linked, &[a, b, c, hard_link("d", "a")]), "none");
}

#[test]
fn a_file_whose_content_is_not_known_yet_is_taken_for_the_same() {
    let unknown = |mut item: Item| {
        item.0.digest = None;
        item
    };
    assert_eq!(held(&[file("a", "1")], &[unknown(file("a", "2"))]), "");
    assert_eq!(held(&[file("a", "1")], &[unknown(file("a", "22"))]), "/a");
    assert_eq!(held(&[unknown(file("a", "1"))], &[file("a", "1")]), "/a");
}

#[test]
fn half_of_a_layer_is_not_worth_a_folder() {
    let big = "x".repeat(100_000);
    let base = [file("a", &big), file("b", "1"), file("c", &big)];
    let [a, b, _] = base.clone();
    assert!(delta(&base, &[a.clone(), file("b", "2"), file("c", &big)]).unwrap().is_small());
    assert!(delta(&base, &[a, b, file("c", &big[1..])]).unwrap().is_small());
    assert!(!delta(&base, &[file("a", "2"), file("b", "2"), file("c", &big[1..])]).unwrap().is_small());
}

/// What a stack shows: every entry, the digests of files, and which names belong together.
fn shown(layers: &[&[Item]]) -> Vec<(Entry, Option<blake3::Hash>, Option<TreePath>)> {
    let tree = merged(layers);
    let mut first_names = BTreeMap::new();
    let entries = tree.walk(&TreePath::root()).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let is_file = matches!(entry.node, Node::File { .. });
        let digest = is_file.then(|| tree.content_digest(&entry.path).unwrap());
        let link = tree.link_id(&entry.path).unwrap();
        let first = link.map(|id| first_names.entry(id).or_insert_with(|| entry.path.clone()).clone());
        (entry, digest, first)
    });
    entries.collect()
}

fn any_layer() -> impl Strategy<Value = Vec<Item>> {
    const PATHS: [&str; 8] = ["a", "a/b", "a/b/c", "a/d", "e", "e/f", "g", "h"];
    let kinds = proptest::collection::vec((0..PATHS.len(), 0..12_u8), 0..10);
    kinds.prop_map(|kinds| {
        let mut items = BTreeMap::new();
        for (at, kind) in kinds {
            let path = PATHS[at];
            let item = match kind {
                0..4 => directory(path),
                4 => with_mode(directory(path), 0o700),
                5 => whiteout(path),
                6 => opaque(path),
                7 => symlink(path, "a"),
                8 if items.get(&TreePath::clean(b"a")).is_some_and(is_file) && at > 0 => hard_link(path, "a"),
                kind => file(path, &kind.to_string()),
            };
            items.insert(item.0.entry.path.clone(), item);
        }
        // A layer has nothing below what is no directory, and its links lead to files.
        let hides = |path: &TreePath| items.get(path).is_some_and(|item| !item.0.entry.node.is_directory());
        let is_bad = |item: &Item| {
            let path = &item.0.entry.path;
            path.ancestors().any(|above| hides(&above))
                || item.0.entry.node.link_target().is_some_and(|target| !items.get(target).is_some_and(is_file))
        };
        items.values().filter(|item| !is_bad(item)).cloned().collect()
    })
}

fn is_file(item: &Item) -> bool {
    matches!(item.0.entry.node, Node::File { .. })
}

/// A layer and another one that is a little different.
fn alike() -> impl Strategy<Value = (Vec<Item>, Vec<Item>)> {
    (any_layer(), any_layer(), 0..3_usize).prop_map(|(base, other, keep)| {
        let mut items: BTreeMap<TreePath, Item> =
            base.iter().map(|item| (item.0.entry.path.clone(), item.clone())).collect();
        for item in other.iter().skip(keep * other.len() / 2) {
            let path = &item.0.entry.path;
            let fits = path.ancestors().all(|above| items.get(&above).is_none_or(|i| i.0.entry.node.is_directory()))
                && (item.0.entry.node.is_directory() || !items.keys().any(|p| p != path && p.starts_with(path)))
                && item.0.entry.node.link_target().is_none_or(|target| items.get(target).is_some_and(is_file));
            if fits {
                items.insert(path.clone(), item.clone());
            }
        }
        let links = |items: &BTreeMap<TreePath, Item>, item: &Item| {
            item.0.entry.node.link_target().is_none_or(|target| items.get(target).is_some_and(is_file))
        };
        let layer = items.values().filter(|item| links(&items, item)).cloned().collect();
        (base, layer)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_delta_over_its_base_shows_what_the_layer_shows(lower in any_layer(), (base, layer) in alike()) {
        let Some(delta) = delta(&base, &layer) else { return Ok(()) };
        let held: Vec<Item> =
            layer.iter().zip(delta.holds()).filter(|(_, holds)| **holds).map(|(item, _)| item.clone()).collect();
        prop_assert_eq!(shown(&[&lower, &base, &held]), shown(&[&lower, &layer]));
    }
}
