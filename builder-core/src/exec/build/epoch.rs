//! The time of what is made, and what SOURCE_DATE_EPOCH names: a time, or something that has one.

use rbuild_dockerfile::{Dockerfile, Instruction, Stage};

use super::Build;
use crate::context::read_archive_tree;
use crate::error::{BuildError, Cause, During};
use crate::exec::context::shown;
use crate::exec::options::{ContextInput, NamedContext};
use crate::exec::remote_files::with_add_options;
use crate::plan::{self, Action, Add, CopySource, Outcome, SOURCE_DATE_EPOCH, Source};
use crate::remote::{self, Place, RemoteSource};
use crate::tree::{Node, Timestamp, TreePath, TreeView};

impl Build<'_> {
    /// The time of what is made now: seconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        self.epoch.unwrap_or(self.options.now)
    }

    /// The latest time that a file may have.
    pub(crate) fn file_epoch(&self) -> Option<i64> {
        self.epoch.filter(|_| self.options.rewrite_timestamps)
    }

    /// Writes a time as the configuration has it (RFC 3339).
    pub(crate) fn timestamp(&self, recorded: i64) -> String {
        let seconds = self.epoch.unwrap_or(recorded);
        jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
    }

    /// Finds the time of what is made: the caller's, or that of the build argument or global ARG.
    pub(super) fn find_epoch(&mut self, dockerfile: &Dockerfile) -> Result<(), BuildError> {
        if self.options.epoch.is_some() {
            return Ok(());
        }
        let options = self.plan_options(&self.platforms[0]);
        let text = plan::source_date_epoch(dockerfile, &options).unwrap_or_default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        self.epoch = match text.parse() {
            Ok(seconds) => Some(seconds),
            Err(_) => self.time_of(dockerfile, text)?,
        };
        self.epoch_text = Some(self.epoch.map(|seconds| seconds.to_string()).unwrap_or_default());
        Ok(())
    }

    /// The time of the build context, of another one, or of what a stage adds. Folders and images have none.
    fn time_of(&self, dockerfile: &Dockerfile, name: &str) -> Result<Option<i64>, BuildError> {
        if name == "context" {
            return match &self.options.context {
                ContextInput::Remote(address) => self.time_of_address(address, None),
                ContextInput::Archive(_) => {
                    newest_file(&*self.context.view).during(|| "read the build context's archive".to_owned())
                }
                ContextInput::Directory(_) | ContextInput::Empty => Ok(None),
            };
        }
        match self.options.named_contexts.get(&name.to_lowercase()) {
            Some(NamedContext::Remote(address)) => return self.time_of_address(address, None),
            Some(NamedContext::Directory(_) | NamedContext::Layout { .. } | NamedContext::Image(_)) => return Ok(None),
            None => {}
        }
        let is_named = |stage: &&Stage| stage.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name));
        match dockerfile.stages.iter().find(is_named) {
            Some(stage) => self.time_of_stage(dockerfile, stage),
            None => Err(BuildError::usage(
                format!("SOURCE_DATE_EPOCH is `{name}`, which is no time"),
                "give it as a number of seconds since 1970-01-01 00:00 UTC, as `context`, or as the name of another \
                 context or of a stage that adds a remote source alone",
            )),
        }
    }

    /// The time of the one remote source that a stage adds.
    fn time_of_stage(&self, dockerfile: &Dockerfile, stage: &Stage) -> Result<Option<i64>, BuildError> {
        let name = stage.name.as_deref().unwrap_or_default();
        let nodes = dockerfile.stage_nodes(stage);
        let fits = |node: &rbuild_dockerfile::Node| {
            matches!(node.instruction, Some(Instruction::Arg(_) | Instruction::Add(_)))
        };
        let unfit = nodes.iter().find(|node| !fits(node));
        let wrong = || {
            let place = unfit.map_or(stage.base.span, |node| node.span);
            BuildError::plan(
                "epoch-stage",
                format!("the stage `{name}` gives SOURCE_DATE_EPOCH no time"),
                "such a stage is `FROM scratch` with one ADD of one remote source, and nothing else but ARG",
                Some(place.range()),
            )
        };
        if unfit.is_some() {
            return Err(wrong());
        }
        let mut options = self.plan_options(&self.platforms[0]);
        options.target = Some(name.to_owned());
        options.build_args.remove(SOURCE_DATE_EPOCH);
        // What is wrong with the stages is told, with everything else, when the build is planned.
        let planned = plan::plan(dockerfile, &options, &self.bases.configs());
        let Ok(Outcome::Plan(plan)) = planned else { return Err(wrong()) };
        let Some(stage) = plan.stages.iter().find(|stage| stage.index == plan.target) else { return Err(wrong()) };
        let [step] = &stage.steps[..] else { return Err(wrong()) };
        match &step.action {
            Action::Copy(copy) if stage.base == Source::Scratch => match (&copy.sources[..], &copy.add) {
                ([CopySource::Remote(address)], Some(add)) => self.time_of_address(address, Some(add)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }

    /// When a commit was made, or a file changed by what its server says, or else by the newest file in the archive.
    fn time_of_address(&self, address: &str, add: Option<&Add>) -> Result<Option<i64>, BuildError> {
        let action = || format!("find the time of `{}`", shown(address));
        let place = if add.is_some() { Place::Add } else { Place::Context };
        let folder = self.layers.store().temp_dir("epoch").during(action)?;
        match remote::classify(address, place).during(action)? {
            RemoteSource::Git(mut source) => {
                if let Some(add) = add {
                    source = with_add_options(source, add)?;
                }
                self.fetcher().commit_time(&source, folder.path()).during(action).map(Some)
            }
            RemoteSource::Http(url) => {
                let checksum =
                    add.and_then(|add| add.checksum.as_deref()).map(str::parse).transpose().during(action)?;
                let file = self.fetcher().file(&url, folder.path(), checksum).during(action)?;
                if let Some(time) = file.modified() {
                    return Ok(Some(time));
                }
                let bytes = file.open().during(action)?;
                match read_archive_tree(Box::new(bytes), folder.path(), Timestamp::default()) {
                    Ok(tree) => newest_file(&tree).during(action),
                    // It is no archive.
                    Err(_) => Ok(None),
                }
            }
            RemoteSource::Local => Ok(None),
        }
    }
}

/// The time of the newest regular file: seconds since 1970.
fn newest_file(view: &dyn TreeView) -> Result<Option<i64>, Cause> {
    let mut newest = None;
    let mut open = vec![TreePath::root()];
    while let Some(folder) = open.pop() {
        for entry in view.read_dir(&folder)? {
            match entry.node {
                Node::Directory { .. } => open.push(entry.path),
                Node::File { .. } => newest = newest.max(Some(entry.metadata.modified.seconds)),
                _ => {}
            }
        }
    }
    Ok(newest)
}
