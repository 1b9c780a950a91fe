//! The steps of this build, for other machines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::time::Duration;

use serde_json::json;

use super::deadline::within;
use super::options::{CacheMode, CachePlace, CacheTarget};
use super::place::{BUNDLE_TYPE, DIFF_ID_ANNOTATION, Found, Opened, client_options};
use super::{layout, mounts, reason, warn};
use crate::cache::{Bundle, CarriedStep, StepRecord};
use crate::error::{BuildError, During};
use crate::exec::build::{Build, BuildResult, StageKey};
use crate::exec::build_arguments::{INLINE_CACHE, truth};
use crate::exec::layers::{StackLayer, in_parallel};
use crate::exec::options::BuildOptions;
use crate::layer::Compression;
use crate::oci::{Descriptor, DiffId, media_type};
use crate::plan::Source;
use crate::progress::Event;
use crate::reference::Reference;
use crate::registry::{Client, Pushed, transport::Cancelled};
use crate::store::Store;

/// The most layers of a cache: registries take no manifest of any size.
const LAYER_LIMIT: usize = 1000;

/// The largest bundle in an image's manifest, of which registries take no more than 4 MiB.
const INLINE_LIMIT: usize = 1 << 20;

/// What a cache is made of.
struct Parcel {
    bundle: Descriptor,
    layers: Vec<Descriptor>,
    manifest: Vec<u8>,
    steps: usize,
}

/// Writes the caches that were asked for once a build has come to its end, whichever that is.
pub(crate) fn export(
    build: &Build<'_>,
    targets: &[StageKey],
    result: Result<BuildResult, BuildError>,
) -> Result<BuildResult, BuildError> {
    // After a loss the build begins again, and its end is still to come.
    let again = result.is_err() && build.carry.losses().has_news();
    if again || build.cancel.is_cancelled() {
        return result;
    }
    for target in &build.options.cache_to {
        let Some(place) = &target.place else { continue };
        match write(build, targets, target, place) {
            Ok(summary) => build.events.event(Event::Note(format!("cache: {summary}"))),
            Err(_) if build.cancel.is_cancelled() => return result.and(Err(BuildError::cancelled())),
            Err(error) if target.ignore_errors || result.is_err() => {
                let message = format!("the cache `{place}` was not written: {}", reason(&error));
                warn(&build.events, message, "");
            }
            Err(error) => {
                return Err(BuildError::failed(format!("write the cache `{place}`"), error)
                    .with_help("with `ignore-error=true` this is a warning"));
            }
        }
    }
    result
}

/// Whether images carry their cache themselves.
///
/// # Errors
/// When the build argument that asks for it is no truth value.
pub(crate) fn is_inline(options: &BuildOptions) -> Result<bool, BuildError> {
    let asked = truth(options, INLINE_CACHE)? == Some(true);
    Ok(asked || options.cache_to.iter().any(|target| target.place.is_none()))
}

/// The bundle that the manifest of a platform's image carries.
pub(crate) fn inline_annotation(build: &Build<'_>, target: StageKey) -> BTreeMap<String, String> {
    let (mut bundle, _) = steps(build, &[target], CacheMode::Min);
    // How long a step took is no fact of the image, which is the same whenever it is built.
    bundle.forget_times(build.epoch);
    let text = String::from_utf8(bundle.to_bytes()).expect("JSON is UTF-8");
    if text.len() > INLINE_LIMIT {
        let message = format!("the cache in the image is left out: it would have {} bytes", text.len());
        warn(&build.events, message, "write it to a registry or a folder instead");
        return BTreeMap::new();
    }
    [(super::place::INLINE_ANNOTATION.to_owned(), text)].into()
}

/// The steps of this build, and the layers of those that a cache of the mode holds: first those of the image.
fn steps(build: &Build<'_>, targets: &[StageKey], mode: CacheMode) -> (Bundle, Vec<DiffId>) {
    let chain = stages_of_the_image(build, targets);
    let mut done = build.carry.done();
    done.sort_by_key(|step| (!chain.contains(&step.stage), step.stage));
    let (mut bundle, mut layers, mut seen) = (Bundle::default(), Vec::new(), BTreeSet::new());
    for step in done {
        let record = build.layers.store().read_step(step.key.as_str()).ok().flatten();
        let record = record.and_then(|bytes| StepRecord::from_bytes(&bytes));
        let Some(record) = record.filter(|record| record.diff_id == step.diff_id) else { continue };
        // A step without its layer is enough where nothing but the layers above it is needed.
        let wanted = mode == CacheMode::Max || chain.contains(&step.stage);
        if wanted && layers.len() < LAYER_LIMIT && seen.insert(step.diff_id) {
            layers.push(step.diff_id);
        }
        let StepRecord { inputs, diff_id, created, took_ms, .. } = record;
        bundle.add(CarriedStep { created, diff_id, inputs, took_ms });
    }
    build.carry.selections().into_iter().for_each(|selection| bundle.add_selection(selection));
    (bundle, layers)
}

/// The stages that the image is built up from.
fn stages_of_the_image(build: &Build<'_>, targets: &[StageKey]) -> BTreeSet<StageKey> {
    let mut chain = BTreeSet::new();
    for target in targets {
        let mut key = *target;
        while chain.insert(key) {
            let Some(Source::Stage(stage)) = build.plans().get(&key).map(|plan| plan.base.clone()) else { break };
            key.stage = stage;
        }
    }
    chain
}

fn write(
    build: &Build<'_>,
    targets: &[StageKey],
    target: &CacheTarget,
    place: &CachePlace,
) -> Result<String, BuildError> {
    let (bundle, diff_ids) = steps(build, targets, target.mode);
    if diff_ids.is_empty() {
        return Ok(format!("`{place}` is left as it is, because no step made a layer"));
    }
    let there = existing(build, target, place)?;
    let parcel = pack(build, target, &bundle, &diff_ids, there.as_ref())?;
    let old = there.as_ref().map(|(_, found)| found);
    if old.is_some_and(|old| old.manifest == parcel.manifest) {
        return Ok(format!("`{place}` has all {} steps already", parcel.steps));
    }
    let new = match place {
        CachePlace::Registry { reference, .. } => send(build, target, place, reference, &parcel, old)?,
        CachePlace::Layout { path, tag, .. } => {
            let store = build.layers.store();
            let descriptor = store.put_blob(&parcel.manifest, media_type::MANIFEST);
            let descriptor = descriptor.during(|| "store the cache's manifest".to_owned())?;
            layout::write(store, &descriptor, path, tag, old)?;
            parcel.layers.iter().filter(|layer| old.is_none_or(|old| !old.blobs.contains(&layer.digest))).count()
        }
    };
    Ok(format!("`{place}` has {} steps and {} layers, {new} of them new", parcel.steps, parcel.layers.len()))
}

/// The cache that is in the place now. Whatever can't be read is replaced.
fn existing(
    build: &Build<'_>,
    target: &CacheTarget,
    place: &CachePlace,
) -> Result<Option<(Opened, Found)>, BuildError> {
    let options = client_options(build.options, place, target.timeout);
    let Ok(opened) = Opened::new(place, options) else { return Ok(None) };
    let reader = opened.clone();
    let read = within(target.timeout, || build.cancel.is_cancelled(), move || reader.read(&[]));
    match read {
        Some(found) => Ok(found.ok().map(|found| (opened, found))),
        None => Err(late(target.timeout)),
    }
}

fn late(timeout: Duration) -> BuildError {
    let cause = format!("the time for it is over: {} s", timeout.as_secs_f32());
    BuildError::failed("send it in time", cause).with_help("allow more with `timeout=`")
}

/// Brings the steps' layers into the form they are sent in, and makes the documents.
fn pack(
    build: &Build<'_>,
    target: &CacheTarget,
    bundle: &Bundle,
    diff_ids: &[DiffId],
    there: Option<&(Opened, Found)>,
) -> Result<Parcel, BuildError> {
    let compression: Compression = target.compression.unwrap_or(build.options.compression);
    let layers = in_parallel(diff_ids, |diff_id| {
        let known = there.and_then(|(opened, found)| Some((opened, found.layers.get(diff_id)?)));
        let mut layer = match known {
            Some((opened, blob)) if blob.media_type == compression.media_type() && opened.has(blob) => blob.clone(),
            _ if build.layers.is_promise(*diff_id) => return Ok(None),
            _ => build.layers.blob(&StackLayer { diff_id: *diff_id, base_blob: None }, compression)?,
        };
        layer = Descriptor::new(&layer.media_type, layer.digest, layer.size);
        layer.annotations.insert(DIFF_ID_ANNOTATION.to_owned(), diff_id.to_string());
        Ok(Some(layer))
    })?;
    let mut layers: Vec<Descriptor> = layers.into_iter().flatten().collect();
    if target.mounts {
        layers.extend(mounts::pack(build, compression, there.map(|(_, found)| found))?);
    }
    layers.sort_by_key(|layer| layer.digest);
    let steps = bundle.len();
    let bundle = build.layers.store().put_blob(&bundle.to_bytes(), BUNDLE_TYPE);
    let bundle = bundle.during(|| "store the list of steps".to_owned())?;
    // A JSON value sorts its properties.
    let document = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": BUNDLE_TYPE,
        "config": bundle, "layers": layers,
    });
    let manifest = serde_json::to_vec(&document).expect("a JSON value can always be written");
    Ok(Parcel { bundle, layers, manifest, steps })
}

/// Sends what a registry lacks; gives how many layers that were.
fn send(
    build: &Build<'_>,
    target: &CacheTarget,
    place: &CachePlace,
    reference: &Reference,
    parcel: &Parcel,
    old: Option<&Found>,
) -> Result<usize, BuildError> {
    let mut options = client_options(build.options, place, target.timeout);
    // Of its own, so that it ends the sending and nothing else.
    let cancelled = Cancelled::default();
    options.transport.cancelled = cancelled.clone();
    let client = Client::new(options).during(|| "prepare to reach registries".to_owned())?;
    let reference = reference.without_digest();
    let mut seen = BTreeSet::new();
    let blobs: Vec<Descriptor> = parcel
        .layers
        .iter()
        .chain([&parcel.bundle])
        .filter(|blob| old.is_none_or(|old| !old.blobs.contains(&blob.digest)) && seen.insert(blob.digest))
        .cloned()
        .collect();
    let (store, manifest) = (build.layers.store().clone(), parcel.manifest.clone());
    let work = move || send_blobs(&client, &reference, &store, &blobs, &manifest);
    let sent = within(target.timeout, || build.cancel.is_cancelled(), work);
    if sent.is_none() {
        cancelled.cancel();
    }
    sent.unwrap_or_else(|| Err(late(target.timeout)))
}

fn send_blobs(
    client: &Client,
    reference: &Reference,
    store: &Store,
    blobs: &[Descriptor],
    manifest: &[u8],
) -> Result<usize, BuildError> {
    let sent = in_parallel(blobs, |blob| {
        let open =
            || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(store.open_blob(blob).map_err(io::Error::other)?)) };
        let pushed = client.push_blob(reference, blob, &open, None).during(|| format!("send {}", blob.digest))?;
        Ok(pushed == Pushed::Sent && blob.media_type != BUNDLE_TYPE)
    })?;
    // The manifest comes last: it never names what is not there.
    client
        .push_manifest(reference, media_type::MANIFEST, manifest)
        .during(|| "send the manifest of the cache".to_owned())?;
    Ok(sent.into_iter().filter(|sent| *sent).count())
}
