//! COPY and ADD of files that no build has read yet.
//!
//! A step's key is made of the contents of the files that it copies. Where no step on record has the same inputs but for
//! the files, there is no earlier result whatever they hold: then they are copied at once, read once for that, and the
//! key is made of what was copied. The key and the record are those that reading the files before would have given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::layers::lock;
use super::options::ExpectCached;
use super::selection::{describe, hex, select_options};
use super::stage::{Made, StageRun};
use crate::cache::{PreImage, StepKey, StepRecord, input};
use crate::context::{ContextDir, Selection, select_in};
use crate::plan::{Copy, CopySource, Source};
use crate::store::Store;
use crate::tree::ContentDigest;

/// Where more steps are on record, they are not looked through.
const MOST_RECORDS: usize = 1000;

/// What is known of the inputs of a step that was done.
#[derive(Default)]
pub(crate) enum Taken {
    /// They were known before.
    #[default]
    AsPrepared,
    /// The digest of the files that were copied.
    Late(String),
    /// Files that were copied have changed since, so that nothing tells what they were.
    Unknown,
}

impl Taken {
    /// The step's key, where it has one; adds what was missing of its inputs.
    pub(super) fn key(self, inputs: &mut PreImage) -> Option<StepKey> {
        match self {
            Self::AsPrepared => {}
            Self::Late(files) => inputs.add(input::FILES, files),
            Self::Unknown => return None,
        }
        Some(inputs.key())
    }
}

/// What the inputs of the steps on record are but for the files, as a build learns it: each record is read once.
#[derive(Default)]
pub(crate) struct Outlines(Mutex<BTreeMap<String, Option<StepKey>>>);

impl Outlines {
    /// Whether a step on record has these inputs but for the files; also where there are too many to tell.
    fn have(&self, store: &Store, inputs: &PreImage) -> bool {
        let Ok(Some(keys)) = store.step_keys(MOST_RECORDS) else { return true };
        let outline = |key: &String| {
            let record = StepRecord::from_bytes(&store.peek_step(key).ok()??)?;
            let mut rest = PreImage::new();
            let inputs = record.inputs.inputs().iter().filter(|(name, _)| name != input::FILES);
            inputs.for_each(|(name, value)| rest.add(name, value));
            Some(rest.key())
        };
        let mut known = lock(&self.0);
        for key in keys {
            known.entry(key).or_insert_with_key(outline);
        }
        let wanted = Some(inputs.key());
        known.values().any(|outline| *outline == wanted)
    }
}

impl StageRun<'_, '_> {
    /// The folder that a COPY takes files from, where it can take them before they are read.
    pub(super) fn unread_source(&self, copy: &Copy) -> Option<Arc<ContextDir>> {
        let build = self.build;
        let (folder, _) = build.context_folder().filter(|(folder, _)| folder.is_new() && !folder.holds_changing())?;
        let is_plain = matches!(copy.from, Source::Context)
            && copy.sources.iter().all(|source| matches!(source, CopySource::Path(_)));
        let may = self.copies_unread
            && matches!(build.options.expect_cached, ExpectCached::Nothing)
            && !build.carry.has_sources();
        (is_plain && may).then(|| Arc::clone(folder))
    }

    /// Whether an earlier run of a step is on record that may be the same, or that its miss is explained by. `inputs` are all
    /// but the files.
    pub(super) fn may_be_known(&self, inputs: &PreImage) -> bool {
        let number = self.steps_done();
        if self.build.journal.counterparts(self.plan, number).next().is_some() {
            return true;
        }
        !self.must_run() && self.build.outlines.have(self.build.layers.store(), inputs)
    }

    /// Finds out what files were that were copied unread: their digests are known now, but for those that only another name
    /// was copied of. `outline` is that of what was copied.
    pub(super) fn look_after(&self, copy: &Copy, outline: ContentDigest, folder: &Path, made: Made) -> Made {
        let view = self.build.context_view();
        let mut now = Selection::default();
        for source in &copy.sources {
            let CopySource::Path(path) = source else { unreachable!("only paths are copied unread") };
            match select_in(&*view, &select_options(copy, path), folder) {
                Ok(selection) => now.append(selection),
                Err(_) => return Made { taken: Taken::Unknown, ..made },
            }
        }
        // The layer holds what was there then, which is not to be found out any more where it changed.
        if !now.outline().is_ok_and(|now| now == outline) {
            return Made { taken: Taken::Unknown, ..made };
        }
        Made { files: Some(describe(&now)), taken: Taken::Late(hex(now.fingerprint())), ..made }
    }
}
