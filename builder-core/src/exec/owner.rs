//! Who owns what COPY, ADD and WORKDIR make.

use super::stage::StageRun;
use crate::cache::PreImage;
use crate::error::{BuildError, During};
use crate::plan::{Action, Step};
use crate::tree::{TreeView, chown_needs_accounts, lookup_chown};

/// How an owner's text is understood. It is part of a step's key, so that a layer of another understanding is not taken.
const RULE: &str = "2";

/// Adds an owner to a step's inputs.
pub(super) fn add_owner(name: &str, owner: &str, inputs: &mut PreImage) {
    inputs.add(name, owner);
    if !owner.is_empty() {
        inputs.add(format!("{name} is read by rule"), RULE);
    }
}

impl StageRun<'_, '_> {
    /// Refuses an owner's name where there is no image to look it up in.
    ///
    /// COMPAT(buildkit): that is so on an empty image before the first step that makes something, and always with `--link`.
    ///
    /// # Errors
    /// When the step's owner is such a name.
    pub(super) fn check_owner(&self, step: &Step) -> Result<(), BuildError> {
        let (owner, apart) = match &step.action {
            Action::Copy(copy) => (copy.chown.as_deref().unwrap_or_default(), copy.link),
            Action::MakeDirectory { owner, .. } => (owner.as_str(), false),
            Action::Run(_) => return Ok(()),
        };
        if !(apart || self.stack.is_empty()) || !chown_needs_accounts(owner) {
            return Ok(());
        }
        let why =
            if apart { "--link copies without looking at the image" } else { "there is no file in the image yet" };
        Err(BuildError::plan(
            "owner-without-image",
            format!("the owner `{owner}` can't be looked up: {why}"),
            "give numbers, as in `1000:1000`",
            step.span.clone(),
        ))
    }

    /// Looks up `--chown`. BuildKit takes root for a user that is not there, without a word.
    pub(super) fn owner(&self, below: &dyn TreeView, spec: &str, step: &Step) -> Result<(u32, u32), BuildError> {
        let owner = lookup_chown(below, spec).during(|| format!("look up the owner `{spec}`"))?;
        for (kind, name) in [("user", &owner.unknown_user), ("group", &owner.unknown_group)] {
            if let Some(name) = name {
                self.warn(
                    "unknown-chown-name",
                    format!("the {kind} `{name}` of --chown={spec} is not in the image: root's id is used"),
                    "make it in an earlier step, or give a number",
                    step,
                )?;
            }
        }
        Ok((owner.uid, owner.gid))
    }
}
