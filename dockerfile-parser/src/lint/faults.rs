//! What ends a build before its first step, besides words that do not expand: names of stages and images that nothing
//! has, and values of COPY and ADD that can't be.

use super::BuildError;
use super::evaluate::{StageFacts, Walk, error_at, references};
use super::image_name::parse_image_name;
use crate::chmod::ChmodSpec;
use crate::instruction::{Instruction, is_remote_source};

impl<'a> Walk<'a, '_> {
    /// The first name that is wrong, of all stages: first the numbers of stages, then the names of images.
    pub(super) fn wrong_name(&self, stages: &[StageFacts<'a>]) -> Option<BuildError> {
        let own = |facts: &&StageFacts<'a>| !self.is_replaced(facts.stage);
        let wrong_number = |facts: &StageFacts<'a>| {
            self.uses(facts).find_map(|(node, name)| {
                let number: usize = name.parse().ok()?;
                let message = format!("invalid stage index {number}");
                (number >= self.file.stages.len()).then(|| error_at(node, message))
            })
        };
        if let Some(error) = stages.iter().filter(own).find_map(wrong_number) {
            return Some(error);
        }
        stages.iter().filter(own).find_map(|facts| {
            let base = match facts.base_stage {
                None => self.wrong_image_name(&facts.base).map(|message| error_at(facts.node, message)),
                Some(_) => None,
            };
            let used = || self.uses(facts).find_map(|(node, name)| Some(error_at(node, self.wrong_image_name(&name)?)));
            base.or_else(used)
        })
    }

    /// What the instructions of a stage take files from, as written.
    fn uses(&self, facts: &StageFacts<'a>) -> impl Iterator<Item = (&'a crate::Node, String)> {
        let nodes = self.file.stage_nodes(facts.stage).iter();
        nodes.flat_map(|node| {
            let names = node.instruction.as_ref().map(references).unwrap_or_default();
            names.into_iter().map(move |name| (node, name))
        })
    }

    /// Why a name can be no image's; `None` for the names of stages, named contexts and `scratch` too.
    fn wrong_image_name(&self, name: &str) -> Option<String> {
        let known = name == "scratch"
            || name.parse::<usize>().is_ok()
            || self.find(name).is_some()
            || self.context.named_contexts.contains(&name.to_lowercase());
        (!known && parse_image_name(name).is_none()).then(|| format!("failed to parse stage name {name:?}"))
    }

    /// Refuses an instruction of a stage that takes files from a later one.
    pub(super) fn refuse_later_stage(&self, instruction: &Instruction, stage: usize) -> Result<(), String> {
        let later = |name: &String| self.find(name).is_some_and(|found| found >= stage);
        match references(instruction).into_iter().find(later) {
            Some(name) => Err(format!("cannot copy from stage {name:?}, it needs to be defined before current stage")),
            None => Ok(()),
        }
    }
}

/// Refuses a `--chmod` that is no mode, after expansion; an empty one is none.
pub(super) fn refuse_chmod(mode: &str) -> Result<(), String> {
    if mode.is_empty() {
        return Ok(());
    }
    ChmodSpec::parse(mode).map(drop).map_err(|error| error.to_string())
}

/// Refuses an address as a source of COPY.
pub(super) fn refuse_addresses(sources: &[String]) -> Result<(), String> {
    match sources.iter().find(|source| is_remote_source(source)) {
        Some(source) => Err(format!("source can't be a URL for COPY: {source}")),
        None => Ok(()),
    }
}

/// Refuses a checksum of what has none; `count` is the number of sources, heredocs included.
pub(super) fn refuse_checksum(checksum: &str, sources: &[String], count: usize) -> Result<(), String> {
    let remote = sources.first().is_some_and(|source| is_remote_source(source));
    match (checksum.is_empty(), count) {
        (true, _) => Ok(()),
        (false, 1) if remote => Ok(()),
        (false, 1) => Err("checksum requires HTTP(S) or Git sources".to_owned()),
        (false, _) => Err("checksum can't be specified for multiple sources".to_owned()),
    }
}
