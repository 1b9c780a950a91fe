//! COPY, ADD and WORKDIR.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::bases::Resolved;
use super::build::StageKey;
use super::changing::ChangedFiles;
use super::layers::Layers;
use super::owner::add_owner;
use super::remote_files::with_add_options;
use super::selection::{SelectionSource, describe, hex, select_options};
use super::stage::{Made, StageRun};
use crate::cache::{Files, FilesBuilder, PreImage, input};
use crate::context::{
    ContextDir, Fingerprint, MemoryTree, ModeChange, PlaceOptions, PlaceWarning, SelectOptions, Selection,
    check_source, fingerprint, place, select, select_in,
};
use crate::error::{BuildError, During, ErrorKind};
use crate::oci::DiffId;
use crate::plan::{Add, Copy, CopySource, Source, Step};
use crate::progress::{Event, Warning};
use crate::remote;

use crate::store::TempDir;
use crate::tree::{FollowLast, Timestamp, TreePath, TreeView, lookup_chown, resolve};

/// The modification time of files made from heredocs and of directories made on the way, where no epoch is given:
/// always the same, so that the same instruction gives the same layer.
const MADE_TIME: Timestamp = Timestamp::from_seconds(0);

/// What a COPY copies, as far as the step's key needs it: a step that need not run lists no files.
pub(crate) struct PreparedCopy {
    /// What the sources bring; `None` where only the digest was known, until something is to be copied.
    found: Option<Found>,
    selection: OnceLock<Selection>,
    /// What decides what is copied, and its digest, where that was known.
    known: Option<(SelectionSource, String)>,
    /// The layer of an earlier run of the step.
    pub(crate) earlier: Option<DiffId>,
    /// Where the files are to be copied before they are read, and the step's key is known only after that.
    pub(crate) unread: bool,
    /// Keeps downloads until they are copied.
    _folders: Vec<TempDir>,
}

/// What all sources bring.
#[derive(Default)]
struct Found {
    parts: Vec<Part>,
    fingerprint: Fingerprint,
}

/// What one source brings.
enum Part {
    /// Files that were made or fetched for the step.
    Selected(Selection),
    /// Files of a tree, which are looked for again when they are copied.
    InTree { view: Arc<dyn TreeView>, options: SelectOptions },
}

impl PreparedCopy {
    /// What is copied. It is what the key was made of, or an error.
    fn selection(&self, folder: &Path) -> Result<&Selection, BuildError> {
        if let Some(selection) = self.selection.get() {
            return Ok(selection);
        }
        let found = self
            .found
            .as_ref()
            .ok_or_else(|| BuildError::failed("read the files to copy", "nobody looked for them"))?;
        let mut selection = Selection::default();
        for part in &found.parts {
            selection.append(match part {
                Part::Selected(part) => part.clone(),
                Part::InTree { view, options } => {
                    select_in(&**view, options, folder).during(|| "read the files to copy".to_owned())?
                }
            });
        }
        if !self.unread && selection.digest() != found.fingerprint.digest() {
            return Err(BuildError::failed("read the files to copy", ChangedFiles));
        }
        Ok(self.selection.get_or_init(|| selection))
    }

    /// Whether the files can be looked for without fetching anything.
    pub(crate) fn is_at_hand(&self, layers: &Layers) -> bool {
        self.known.as_ref().is_none_or(|(source, _)| source.stack.iter().all(|layer| layers.is_stored(layer.diff_id)))
    }

    /// What each source path is; nothing where the files were not looked for.
    pub(crate) fn describe(&self, folder: &Path) -> Result<Files, BuildError> {
        match &self.found {
            Some(_) => self.selection(folder).map(describe),
            None => Ok(FilesBuilder::default().finish()),
        }
    }
}

impl StageRun<'_, '_> {
    pub(crate) fn prepare_copy(&self, copy: &Copy, inputs: &mut PreImage) -> Result<PreparedCopy, BuildError> {
        inputs.add("destination", &copy.destination);
        inputs.add("working directory", &copy.working_dir);
        add_owner("--chown", copy.chown.as_deref().unwrap_or_default(), inputs);
        inputs.add("--chmod", copy.chmod_text.clone().unwrap_or_default());
        inputs.add("--link", copy.link.to_string());
        inputs.add("--parents", copy.parents.to_string());
        inputs.add("--exclude", copy.excludes.join("\n"));
        self.add_epoch(inputs);
        let source = self.selection_source(copy);
        let known = source.as_ref().and_then(|source| self.known_selection(source));
        let mut unread = self.unread_source(copy);
        let mut found = Found::default();
        let mut folders = Vec::new();
        for source in &copy.sources {
            let part = match source {
                CopySource::Path(path) => {
                    inputs.add(input::SOURCE, path);
                    if known.is_none() && unread.is_none() {
                        self.look_for(copy, path, None, &mut found)?;
                    }
                    continue;
                }
                CopySource::Heredoc { name, body } => {
                    inputs.add(format!("heredoc {name}"), body.to_string());
                    self.select_heredoc(name, body)?
                }
                CopySource::Remote(address) => {
                    inputs.add(input::SOURCE, super::context::shown(address));
                    let add = copy.add.as_ref().expect("only ADD has remote sources");
                    let selected = self.select_remote(add, address, copy);
                    let (part, folder) = selected.map_err(|error| error.at(copy.place_of(address)))?;
                    folders.push(folder);
                    part
                }
            };
            found.fingerprint.append(part.fingerprint());
            found.parts.push(Part::Selected(part));
        }
        if let Some(add) = &copy.add {
            inputs.add("--unpack", format!("{:?}", add.unpack));
        }
        if unread.take_if(|_| self.may_be_known(inputs)).is_some() {
            self.look_for_all(copy, None, &mut found)?;
        } else if let Some(folder) = unread {
            self.look_for_all(copy, Some(&folder), &mut found)?;
            let (found, selection) = (Some(found), OnceLock::new());
            return Ok(PreparedCopy { found, selection, known: None, earlier: None, unread: true, _folders: folders });
        }
        let files = known.clone().unwrap_or_else(|| digest_of(&found));
        if let (Some(source), None) = (&source, &known) {
            self.remember_selection(source, &files);
        }
        inputs.add(input::FILES, files);
        let found = known.is_none().then_some(found);
        Ok(PreparedCopy {
            found,
            selection: OnceLock::new(),
            known: source.zip(known),
            earlier: None,
            unread: false,
            _folders: folders,
        })
    }

    /// Looks for the files of a COPY of which only the digest was known.
    pub(crate) fn complete_copy(&self, copy: &Copy, prepared: &mut PreparedCopy) -> Result<(), BuildError> {
        if prepared.found.is_some() {
            return Ok(());
        }
        let mut found = Found::default();
        self.look_for_all(copy, None, &mut found)?;
        if let Some((source, known)) = &prepared.known {
            self.check_selection(source, known, &digest_of(&found))?;
        }
        prepared.found = Some(found);
        Ok(())
    }

    /// Looks for all sources; of those in a folder that is to stay unread it only makes sure that they are there.
    fn look_for_all(&self, copy: &Copy, unread: Option<&Arc<ContextDir>>, found: &mut Found) -> Result<(), BuildError> {
        copy.sources.iter().try_for_each(|source| {
            let CopySource::Path(path) = source else { unreachable!("what is known or unread has paths alone") };
            self.look_for(copy, path, unread, found)
        })
    }

    fn look_for(
        &self,
        copy: &Copy,
        path: &str,
        unread: Option<&Arc<ContextDir>>,
        found: &mut Found,
    ) -> Result<(), BuildError> {
        let view: Arc<dyn TreeView> = match unread {
            Some(folder) => Arc::new(folder.unread()),
            None => self.source_view(&copy.from)?,
        };
        let options = select_options(copy, path);
        let print = match copy.from {
            Source::Context if unread.is_some() => check_source(&*view, &options).map(|()| Fingerprint::default()),
            Source::Context => self.build.context().fingerprint(&options),
            _ => fingerprint(&*view, &options),
        };
        let print = print.and_then(|print| self.check_wildcard(copy, path, &*view).map(|()| print));
        let explained = |error| {
            let unusable = self.build.unusable_source(error, &*view, (self.key.platform, &copy.from), path);
            unusable.at(copy.place_of(path))
        };
        found.fingerprint.append(&print.map_err(explained)?);
        found.parts.push(Part::InTree { view, options });
        Ok(())
    }

    fn select_heredoc(&self, name: &str, body: &Arc<str>) -> Result<Selection, BuildError> {
        let mut tree = MemoryTree::new();
        let path = TreePath::clean(name.as_bytes());
        tree.add_file(&path, body.as_bytes(), 0o644, self.made_time());
        let options = SelectOptions { sources: vec![path.as_bytes().to_vec()], ..SelectOptions::default() };
        select(&tree, &options).during(|| format!("copy the heredoc `{name}`"))
    }

    fn select_remote(&self, add: &Add, address: &str, copy: &Copy) -> Result<(Selection, TempDir), BuildError> {
        let action = || format!("add `{}`", super::context::shown(address));
        let store = self.build.layers.store();
        let folder = store.temp_dir("add").during(action)?;
        let fetcher = self.build.fetcher();
        let options = |unpack| SelectOptions { excludes: copy.excludes.clone(), unpack, ..SelectOptions::default() };
        match remote::classify(address, remote::Place::Add).during(action)? {
            remote::RemoteSource::Git(source) => {
                let source = with_add_options(source, add)?;
                let view = fetcher.repository(&source, folder.path()).during(action)?;
                let selection =
                    select(&*view, &SelectOptions { sources: vec![b".".to_vec()], ..options(false) }).during(action)?;
                Ok((selection, folder))
            }
            remote::RemoteSource::Http(url) => {
                let checksum = add.checksum.as_deref().map(str::parse).transpose().during(action)?;
                let fetched = fetcher.file(&url, folder.path(), checksum).during(action)?;
                if fetched.name == remote::UNNAMED && copy.destination.ends_with('/') {
                    return Err(BuildError::usage(
                        format!("`{address}` names no file, so `{}` can't hold it", copy.destination),
                        "give the destination a file name",
                    ));
                }
                let sources = vec![fetched.name.as_bytes().to_vec()];
                let view = fetched.into_tree(MADE_TIME);
                let selection =
                    select(&view, &SelectOptions { sources, ..options(add.unpack.unwrap_or(false)) }).during(action)?;
                Ok((selection, folder))
            }
            remote::RemoteSource::Local => unreachable!("planning tells remote sources from paths by the same rule"),
        }
    }

    fn made_time(&self) -> Timestamp {
        self.build.file_epoch().map_or(MADE_TIME, Timestamp::from_seconds)
    }

    pub(crate) fn copy(&self, copy: &Copy, prepared: PreparedCopy, step: &Step) -> Result<Made, BuildError> {
        let below: Arc<dyn TreeView> = if copy.link { Arc::new(MemoryTree::new()) } else { Arc::new(self.below()?) };
        let owner = match &copy.chown {
            Some(spec) => Some(self.owner(&*below, spec, step)?),
            None => None,
        };
        let folder = self.build.layers.store().temp_dir("place").during(|| "make a temporary folder".to_owned())?;
        let mode =
            copy.chmod_text.as_deref().map(ModeChange::parse).transpose().during(|| "read --chmod".to_owned())?;
        let options = PlaceOptions {
            destination: copy.destination.as_bytes(),
            working_directory: copy.working_dir.as_bytes(),
            owner,
            mode: mode.as_ref(),
            link: copy.link,
            implied_time: self.made_time(),
            temporary_folder: folder.path(),
        };
        let selection = prepared.selection(folder.path())?;
        let placement = place(selection, &*below, &options).during(|| format!("copy to `{}`", copy.destination))?;
        for warning in &placement.warnings {
            self.warn_about_placing(warning, step)?;
        }
        let outline = if prepared.unread {
            Some(selection.outline().during(|| "read the files to copy".to_owned())?)
        } else {
            None
        };
        let files = if prepared.unread { None } else { Some(prepared.describe(folder.path())?) };
        // What was selected takes more memory than the changes that came of it.
        let PreparedCopy { earlier, _folders: _downloads, .. } = prepared;
        let made = self.store_changes(placement.changes, files, earlier)?;
        Ok(match outline {
            Some(outline) => self.look_after(copy, outline, folder.path(), made),
            None => made,
        })
    }

    fn warn_about_placing(&self, warning: &PlaceWarning, step: &Step) -> Result<(), BuildError> {
        let PlaceWarning::SourceLost { destination, lost, kept, renamed } = warning;
        let help = if *renamed {
            "end the destination with a slash to make it a directory"
        } else {
            "rename one of the sources"
        };
        self.warn(
            "copy-loses-files",
            format!("`{lost}` and `{kept}` both become `{destination}`: only `{kept}` is kept"),
            help,
            step,
        )
    }

    /// Warns by a named rule, or refuses where the user wants that.
    pub(crate) fn warn(&self, rule: &'static str, message: String, help: &str, step: &Step) -> Result<(), BuildError> {
        if self.build.options.strict {
            return Err(ErrorKind::Plan { code: rule, message, help: help.to_owned(), span: step.span.clone() }.into());
        }
        self.build.events.event(Event::Warning(Warning {
            rule: rule.to_owned(),
            message,
            help: help.to_owned(),
            span: step.span.clone(),
        }));
        Ok(())
    }

    /// A tree that files are taken from.
    pub(crate) fn source_view(&self, source: &Source) -> Result<Arc<dyn TreeView>, BuildError> {
        match source {
            Source::Scratch => Ok(Arc::new(MemoryTree::new())),
            Source::Context => Ok(self.build.context_view()),
            Source::Stage(stage) => {
                let result = self.build.results.wait(&StageKey { platform: self.key.platform, stage: *stage })?;
                Ok(Arc::new(self.build.layers.view(&result.stack)?))
            }
            Source::Named(_) | Source::Image { .. } => {
                match self.build.bases.resolved(source).expect("planning asked for every source") {
                    Resolved::Image(base) => Ok(Arc::new(self.build.layers.view_with_files(&base.stack)?)),
                    Resolved::Folder(view) => Ok(view),
                }
            }
        }
    }

    /// WORKDIR: makes a directory and its parents. What is there already stays as it is.
    pub(crate) fn make_directory(&self, path: &str, owner: &str) -> Result<Made, BuildError> {
        let below = self.below()?;
        let action = || format!("make the working directory `{path}`");
        let owner = if owner.is_empty() {
            (0, 0)
        } else {
            lookup_chown(&below, owner).map(|o| (o.uid, o.gid)).during(action)?
        };
        let resolved = resolve(&below, path.as_bytes(), FollowLast::Yes).during(action)?;
        let changes =
            super::materialize::make_directories(&below, &resolved, owner, self.made_time()).during(action)?;
        self.store_changes(changes.into(), None, None)
    }
}

fn digest_of(found: &Found) -> String {
    hex(&found.fingerprint)
}
