//! COPY and ADD: their sources, where to and how, decided.

use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::chmod::ChmodSpec;
use rbuild_dockerfile::instruction::{Add as AddInstruction, Copy as CopyInstruction, is_remote_source};
use rbuild_dockerfile::word::expand_heredoc;
use rbuild_dockerfile::{Heredoc, Word, history};

use super::error::{PlanError, code};
use super::stage::Walk;
use super::step::{Action, Add, Copy, CopySource, Source};

impl Walk<'_> {
    fn heredocs(&self, heredocs: &[Heredoc]) -> Result<Vec<CopySource>, PlanError> {
        let mut sources = Vec::new();
        for heredoc in heredocs {
            let mut body = heredoc.content();
            if heredoc.word.expand {
                body = expand_heredoc(&body, &self.lookup())
                    .map_err(|e| PlanError::new(code::EXPANSION, e.to_string(), heredoc.span))?
                    .text;
            }
            sources.push(CopySource::Heredoc { name: heredoc.name().to_owned(), body: Arc::from(body) });
        }
        Ok(sources)
    }

    pub(super) fn copy(&mut self, copy: &CopyInstruction, span: Option<Range<usize>>) -> Result<(), PlanError> {
        let from = match &copy.from {
            Some(word) => (self.resolve)(&word.text, word.span)?,
            None => Source::Context,
        };
        let mut sources = Vec::new();
        for word in &copy.sources {
            let path = self.expanded(word)?;
            if is_remote_source(&path) {
                let message = format!("source can't be a URL for COPY: `{path}`");
                return Err(PlanError::new(code::COPY_URL, message, word.span).with_help("use ADD"));
            }
            sources.push(CopySource::Path(path));
        }
        sources.extend(self.heredocs(&copy.heredocs)?);
        let flags = Flags { chown: copy.chown.as_ref(), chmod: copy.chmod.as_ref(), exclude: &copy.exclude };
        let mut action = self.copy_action(from, sources, &copy.destination, &flags)?;
        action.link = copy.link && action.chmod.is_none();
        action.parents = copy.parents;
        self.finish_copy(action, copy.from.as_ref(), span);
        self.note_heredocs(&copy.heredocs);
        Ok(())
    }

    pub(super) fn add(&mut self, add: &AddInstruction, span: Option<Range<usize>>) -> Result<(), PlanError> {
        let checksum = self.expanded_option(add.checksum.as_ref())?;
        let mut sources = Vec::new();
        for word in &add.sources {
            let path = self.expanded(word)?;
            sources.push(if is_remote_source(&path) { CopySource::Remote(path) } else { CopySource::Path(path) });
        }
        let wrong = |message: &str| {
            let span = add.checksum.as_ref().map_or(add.destination.span, |w| w.span);
            PlanError::new(code::CHECKSUM, message, span)
        };
        if checksum.is_some() {
            if sources.len() + add.heredocs.len() != 1 {
                return Err(wrong("checksum can't be specified for multiple sources"));
            }
            if !matches!(sources.first(), Some(CopySource::Remote(_))) {
                return Err(wrong("checksum requires HTTP(S) or Git sources"));
            }
        }
        sources.extend(self.heredocs(&add.heredocs)?);
        let flags = Flags { chown: add.chown.as_ref(), chmod: add.chmod.as_ref(), exclude: &add.exclude };
        let mut action = self.copy_action(Source::Context, sources, &add.destination, &flags)?;
        action.link = add.link && action.chmod.is_none();
        action.add = Some(Add { unpack: add.unpack, checksum, keep_git_dir: add.keep_git_dir });
        self.finish_copy(action, None, span);
        self.note_heredocs(&add.heredocs);
        Ok(())
    }

    fn copy_action(
        &self,
        from: Source,
        sources: Vec<CopySource>,
        destination: &Word,
        flags: &Flags<'_>,
    ) -> Result<Copy, PlanError> {
        let chmod_text = self.expanded_option(flags.chmod)?;
        let chmod = match (&chmod_text, flags.chmod) {
            (Some(text), Some(word)) => {
                Some(ChmodSpec::parse(text).map_err(|e| PlanError::new(code::CHMOD, e.to_string(), word.span))?)
            }
            _ => None,
        };
        Ok(Copy {
            from,
            sources,
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

struct Flags<'a> {
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    exclude: &'a [Word],
}
