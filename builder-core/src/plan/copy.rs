//! COPY and ADD: their sources, where to and how, decided.

use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::chmod::ChmodSpec;
use rbuild_dockerfile::instruction::{Add as AddInstruction, Copy as CopyInstruction, is_remote_source};
use rbuild_dockerfile::word::expand_heredoc;
use rbuild_dockerfile::{Heredoc, Word, history};

use super::error::{PlanError, PlanErrors, code, each};
use super::stage::{Walk, places};
use super::step::{Action, Add, Copy, CopySource, Source};

impl Walk<'_> {
    fn heredocs(&self, heredocs: &[Heredoc]) -> Result<Vec<CopySource>, PlanErrors> {
        each(heredocs, |heredoc| {
            let mut body = heredoc.content();
            if heredoc.word.expand {
                body = expand_heredoc(&body, &self.lookup())
                    .map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), heredoc.span))?
                    .text;
            }
            Ok(CopySource::Heredoc { name: heredoc.name().to_owned(), body: Arc::from(body) })
        })
    }

    pub(super) fn copy(&mut self, copy: &CopyInstruction, span: Option<Range<usize>>) -> Result<(), PlanErrors> {
        let mut wrong = PlanErrors::default();
        let from = wrong.note(match &copy.from {
            Some(word) => (self.resolve)(&word.text, word.span),
            None => Ok(Source::Context),
        });
        let paths = wrong.note(each(&copy.sources, |word| {
            let path = self.expanded(word)?;
            if is_remote_source(&path) {
                let message = format!("source can't be a URL for COPY: `{path}`");
                return Err(PlanError::new(code::COPY_URL, message, word.span).with_help("use ADD"));
            }
            Ok(CopySource::Path(path))
        }));
        let heredocs = wrong.note(self.heredocs(&copy.heredocs));
        let flags = Flags { chown: copy.chown.as_ref(), chmod: copy.chmod.as_ref(), exclude: &copy.exclude };
        let action = wrong.note(self.copy_action(&copy.destination, &flags));
        let (Some(from), Some(paths), Some(heredocs), Some(mut action)) = (from, paths, heredocs, action) else {
            return Err(wrong);
        };
        action.from = from;
        action.sources = [paths, heredocs].concat();
        action.source_places = places(&copy.sources, span.as_ref());
        action.link = copy.link && action.chmod.is_none();
        action.parents = copy.parents;
        self.finish_copy(action, copy.from.as_ref(), span);
        self.note_heredocs(&copy.heredocs);
        Ok(())
    }

    pub(super) fn add(&mut self, add: &AddInstruction, span: Option<Range<usize>>) -> Result<(), PlanErrors> {
        let mut wrong = PlanErrors::default();
        let checksum = wrong.note(self.expanded_option(add.checksum.as_ref()));
        let paths = wrong.note(each(&add.sources, |word| {
            let path = self.expanded(word)?;
            Ok(if is_remote_source(&path) { CopySource::Remote(path) } else { CopySource::Path(path) })
        }));
        let heredocs = wrong.note(self.heredocs(&add.heredocs));
        let flags = Flags { chown: add.chown.as_ref(), chmod: add.chmod.as_ref(), exclude: &add.exclude };
        let action = wrong.note(self.copy_action(&add.destination, &flags));
        if let (Some(Some(_)), Some(paths), Some(word)) = (&checksum, &paths, &add.checksum)
            && let Some(message) = refused_checksum(paths, add.heredocs.len())
        {
            wrong.push(PlanError::new(code::CHECKSUM, message, word.span));
            return Err(wrong);
        }
        let (Some(checksum), Some(paths), Some(heredocs), Some(mut action)) = (checksum, paths, heredocs, action)
        else {
            return Err(wrong);
        };
        action.sources = [paths, heredocs].concat();
        action.source_places = places(&add.sources, span.as_ref());
        action.link = add.link && action.chmod.is_none();
        action.add = Some(Add { unpack: add.unpack, checksum, keep_git_dir: add.keep_git_dir });
        self.finish_copy(action, None, span);
        self.note_heredocs(&add.heredocs);
        Ok(())
    }

    /// A copy of nothing yet from the build context.
    fn copy_action(&self, destination: &Word, flags: &Flags<'_>) -> Result<Copy, PlanError> {
        let chmod_text = self.expanded_option(flags.chmod)?;
        let chmod = match (&chmod_text, flags.chmod) {
            (Some(text), Some(word)) => {
                Some(ChmodSpec::parse(text).map_err(|e| PlanError::new(code::CHMOD, e.to_string(), word.span))?)
            }
            _ => None,
        };
        Ok(Copy {
            from: Source::Context,
            sources: Vec::new(),
            source_places: Vec::new(),
            destination: self.expanded(destination)?,
            working_dir: self.working_dir(),
            chown: self.expanded_option(flags.chown)?,
            chmod,
            chmod_text,
            link: false,
            parents: false,
            excludes: flags.exclude.iter().map(|w| w.text.clone()).collect(),
            add: None,
        })
    }

    fn finish_copy(&mut self, action: Copy, from: Option<&Word>, span: Option<Range<usize>>) {
        let (mut sources, mut heredocs) = (Vec::new(), Vec::new());
        for source in &action.sources {
            match source {
                CopySource::Path(path) | CopySource::Remote(path) => sources.push(path.clone()),
                CopySource::Heredoc { name, .. } => heredocs.push(name.clone()),
            }
        }
        let text = history::copy(history::CopyParts {
            add: action.add.is_some(),
            parents: action.parents,
            chown: action.chown.as_deref().unwrap_or_default(),
            chmod: action.chmod_text.as_deref().unwrap_or_default(),
            sources: &sources,
            heredocs: &heredocs,
            destination: &action.destination,
        });
        let mut name = text.strip_suffix(history::SUFFIX).unwrap_or(&text).to_owned();
        if let Some(from) = from {
            name.insert_str("COPY".len(), &format!(" --from={}", from.text));
        }
        let history = self.history(text, false);
        self.step(name, span, Action::Copy(Box::new(action)), history);
    }
}

/// Why what is added can have no checksum.
fn refused_checksum(paths: &[CopySource], heredocs: usize) -> Option<&'static str> {
    match paths {
        _ if paths.len() + heredocs != 1 => Some("checksum can't be specified for multiple sources"),
        [CopySource::Remote(_)] => None,
        _ => Some("checksum requires HTTP(S) or Git sources"),
    }
}

struct Flags<'a> {
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    exclude: &'a [Word],
}
