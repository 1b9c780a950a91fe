//! What a COPY takes from another stage or an image, remembered by the layers that it takes it from.
//!
//! The same paths of the same layers are the same files. So the digest that goes into a step's key need not be made of the
//! layers' trees each time, and a stage whose steps are all known is copied from without any of its layers being here,
//! as long as nothing really is to be copied.

use super::layers::StackLayer;
use super::stage::StageRun;
use crate::cache::{Files, FilesBuilder, PreImage};
use crate::context::{Fingerprint, SelectOptions, Selection};
use crate::error::BuildError;
use crate::plan::{Copy, CopySource, Source};
use crate::tree::ContentMark;

/// The kind of note that keeps digests of selections.
const NOTE: &str = "selection";

/// What decides what a COPY selects.
pub(crate) struct SelectionSource {
    inputs: PreImage,
    pub(super) stack: Vec<StackLayer>,
}

impl StageRun<'_, '_> {
    /// What decides what `copy` selects; `None` where that is not a stack of layers alone.
    pub(crate) fn selection_source(&self, copy: &Copy) -> Option<SelectionSource> {
        let stack = match &copy.from {
            Source::Stage(stage) => self.build.stage_result(self.key.platform, *stage).ok()?.stack.clone(),
            Source::Named(_) | Source::Image { .. } => self.build.image_stack(&copy.from)?,
            Source::Context | Source::Scratch => return None,
        };
        let mut inputs = PreImage::new();
        inputs.add("selection", "of layers");
        for layer in &stack {
            inputs.add("layer", layer.diff_id.to_string());
        }
        for source in &copy.sources {
            let CopySource::Path(path) = source else { return None };
            let SelectOptions { sources: _, wildcards, parents, excludes, unpack } = select_options(copy, path);
            inputs.add("source", path);
            inputs.add("options", format!("{wildcards} {parents} {unpack} {excludes:?}"));
        }
        Some(SelectionSource { inputs, stack })
    }

    /// The digest of a selection that was made before, here or on another machine.
    pub(crate) fn known_selection(&self, source: &SelectionSource) -> Option<String> {
        if self.must_run() || self.build.carry.losses().selections_wrong() {
            return None;
        }
        let (build, name) = (self.build, source.inputs.key());
        let note = build.layers.store().read_note(NOTE, name.as_str()).ok().flatten();
        if let Some(files) = note.and_then(|bytes| String::from_utf8(bytes).ok()) {
            build.carry.note_selection(&source.inputs, &files);
            return Some(files);
        }
        // What is here is looked at here.
        if source.stack.iter().all(|layer| build.layers.is_stored(layer.diff_id)) {
            return None;
        }
        let files = build.carry.find_selection(build, &name)?;
        self.remember_selection(source, &files);
        Some(files)
    }

    /// Makes sure that a digest that was taken for known is that of the files.
    ///
    /// # Errors
    /// When it is another: the step's key is wrong then, and the build begins again.
    pub(crate) fn check_selection(&self, source: &SelectionSource, known: &str, files: &str) -> Result<(), BuildError> {
        if known == files {
            return Ok(());
        }
        self.remember_selection(source, files);
        self.build.carry.losses().distrust_selections();
        Err(BuildError::failed("look for the files to copy", "they are others than was noted"))
    }

    /// Remembers the digest of a selection.
    pub(crate) fn remember_selection(&self, source: &SelectionSource, files: &str) {
        self.build.carry.note_selection(&source.inputs, files);
        // Only speed is lost where it can't be written.
        let _ = self.build.layers.store().write_note(NOTE, source.inputs.key().as_str(), files.as_bytes());
    }
}

/// How a path of a COPY is selected.
pub(crate) fn select_options(copy: &Copy, path: &str) -> SelectOptions {
    SelectOptions {
        sources: vec![path.as_bytes().to_vec()],
        wildcards: true,
        parents: copy.parents,
        excludes: copy.excludes.clone(),
        unpack: copy.add.as_ref().is_some_and(|add| add.unpack.unwrap_or(true)),
    }
}

/// The digest of what is copied, as a step's key takes it.
pub(super) fn hex(files: &Fingerprint) -> String {
    files.digest().to_hex().to_string()
}

/// What each source path of a selection is; nothing where that can't be read back.
pub(super) fn describe(selection: &Selection) -> Files {
    let mut files = FilesBuilder::default();
    let take = &mut |path: &str, facts: &str, mark: Option<ContentMark>| {
        files.add(path, facts, mark.map(|ContentMark(mark)| mark));
    };
    if selection.describe(take).is_err() { FilesBuilder::default().finish() } else { files.finish() }
}
