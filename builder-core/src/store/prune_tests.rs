use super::super::tests::scratch;
use super::super::{LayerBlob, PruneOptions};
use super::*;
use crate::oci::{Descriptor, media_type};

fn options() -> PruneOptions {
    let now = SystemTime::now();
    PruneOptions { now, unused_for: None, keep_bytes: None, cache_mounts: false, dry_run: false }
}

fn put_layer(store: &Store, name: &str) -> (DiffId, Descriptor) {
    let id = DiffId(Digest::of(name.as_bytes()));
    let descriptor = store.put_blob(format!("\x1f{name}").repeat(5000).as_bytes(), media_type::LAYER_GZIP).unwrap();
    let dir = store.unpack_dir().unwrap();
    fs::write(dir.path().join("file"), name).unwrap();
    store.adopt_unpacked(id, &dir.keep()).unwrap();
    let (compression, encoder) = (String::new(), String::new());
    let blob = LayerBlob { descriptor: descriptor.clone(), compression, encoder, source: None };
    store.add_layer_blob(id, blob).unwrap();
    (id, descriptor)
}

/// An image of one layer with a name, a step whose record names another layer, and a third that nobody needs.
fn populate(store: &Store) -> [(DiffId, Descriptor); 3] {
    let layers = ["image", "step", "nobody"].map(|name| put_layer(store, name));
    let config = store.put_blob(format!("{{\"d\":\"{}\"}}", layers[0].0).as_bytes(), "c").unwrap();
    let text = format!("{{\"config\":\"{}\",\"layer\":\"{}\"}}", config.digest, layers[0].1.digest);
    let manifest = store.put_blob(text.as_bytes(), media_type::MANIFEST).unwrap();
    store.tag("app:1", &manifest).unwrap();
    store.write_step("key", format!("layer {}", layers[1].0).as_bytes()).unwrap();
    layers
}

fn alive(store: &Store, layer: &(DiffId, Descriptor)) -> (bool, bool) {
    (store.layer(layer.0).is_some(), store.has_blob(&layer.1.digest, layer.1.size))
}

/// As another process would.
fn prune(store: &Store, options: &PruneOptions) -> Result<Pruned, StoreError> {
    store.give_up_claims();
    store.prune(options)
}

#[test]
fn removes_only_what_nothing_needs() {
    let (_dir, store) = scratch();
    let [image, step, nobody] = populate(&store);
    let before = store.usage().unwrap().total_bytes();
    let planned = prune(&store, &PruneOptions { dry_run: true, ..options() }).unwrap();
    assert_eq!(alive(&store, &nobody), (true, true));
    let pruned = prune(&store, &options()).unwrap();
    assert_eq!(pruned, planned);
    assert_eq!((pruned.records, pruned.layers, pruned.blobs), (0, 1, 1));
    assert_eq!(before - store.usage().unwrap().total_bytes(), pruned.freed_bytes);
    assert_eq!([&image, &step, &nobody].map(|l| alive(&store, l)), [(true, true), (true, true), (false, false)]);
    let all = PruneOptions { unused_for: Some(Duration::ZERO), ..options() };
    assert_eq!(prune(&store, &all).unwrap().records, 1);
    assert_eq!([&image, &step].map(|l| alive(&store, l)), [(true, true), (false, false)]);
    store.untag("app:1").unwrap();
    assert_eq!(prune(&store, &options()).unwrap().blobs, 3);
    assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn spares_the_most_recently_used() {
    let (_dir, store) = scratch();
    let layers = ["old", "new"].map(|name| put_layer(&store, name));
    for (layer, (key, age)) in layers.iter().zip([("a", 1000), ("b", 10)]) {
        store.write_step(key, layer.0.to_string().as_bytes()).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        let file = fs::OpenOptions::new().write(true).open(store.path("steps").join(key)).unwrap();
        file.set_modified(time).unwrap();
    }
    let without_one =
        store.usage().unwrap().total_bytes() - disk_usage(&store.path("layers"), &mut BTreeSet::new()) / 2;
    prune(&store, &PruneOptions { keep_bytes: Some(without_one), ..options() }).unwrap();
    assert!(store.usage().unwrap().total_bytes() <= without_one);
    assert_eq!([&layers[0], &layers[1]].map(|l| alive(&store, l)), [(false, false), (true, true)]);
    let recent = PruneOptions { unused_for: Some(Duration::from_secs(60)), ..options() };
    assert_eq!(prune(&store, &recent).unwrap(), Pruned::default());
}

#[test]
fn what_others_use_stays_until_they_are_done() {
    let (_dir, store) = scratch();
    let [image, step, nobody] = populate(&store);
    let other = Store::open(store.root()).unwrap();
    let all = PruneOptions { unused_for: Some(Duration::ZERO), ..options() };
    store.give_up_claims();
    assert_eq!(alive(&other, &step), (true, true));
    assert_eq!(alive(&other, &nobody), (true, true));
    let pruned = store.prune(&all).unwrap();
    assert_eq!((pruned.records, pruned.layers, pruned.blobs, pruned.in_use), (1, 0, 0, 4));
    assert_eq!(store.prune(&PruneOptions { keep_bytes: Some(0), ..all.clone() }).unwrap().in_use, 4);
    drop(other);
    assert_eq!(store.prune(&all).unwrap().in_use, 0);
    let last = Store::open(store.root()).unwrap();
    assert_eq!([&image, &step, &nobody].map(|l| alive(&last, l).1), [true, false, false]);
}

#[test]
fn unpacked_files_of_images_are_the_last_to_go() {
    let (_dir, store) = scratch();
    let [image, step, _] = populate(&store);
    store.give_up_claims();
    store.prune(&PruneOptions { keep_bytes: Some(1), ..options() }).unwrap();
    assert_eq!([&image, &step].map(|l| alive(&store, l)), [(false, true), (false, false)]);
}

#[test]
fn an_image_that_is_named_meanwhile_stays() {
    let (_dir, store) = scratch();
    let [image, step, nobody] = populate(&store);
    store.give_up_claims();
    let unclaimed = Unclaimed::new(&store).unwrap();
    let mut sweep = Sweep::new(&store, &unclaimed, false).unwrap();
    let blobs = store.sizes("blobs/sha256").unwrap().into_iter().collect();
    let layers = store.sizes("layers").unwrap().into_iter().collect();
    store.tag("app:2", &step.1).unwrap();
    sweep.remove(&Doomed { records: Vec::new(), layers, blobs }).unwrap();
    assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 4);
    assert_eq!([&image, &step, &nobody].map(|l| alive(&store, l).1), [true, true, false]);
}
