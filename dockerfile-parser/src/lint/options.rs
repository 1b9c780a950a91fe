//! The settings of `# check=skip=A,B;error=true;experimental=all`.

use std::collections::BTreeSet;

use super::Rule;
use crate::directive::check_comment;
use crate::dockerfile::Node;
use crate::truth::parse_bool;

/// At most so many settings, separated by `;`, are told apart.
const MAX_SETTINGS: usize = 3;

/// A selection of rules by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleSelection {
    /// Every rule.
    All,
    /// The rules named.
    Named(BTreeSet<String>),
}

impl Default for RuleSelection {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl RuleSelection {
    fn parse(value: &str) -> Self {
        match value.trim() {
            "all" => Self::All,
            value => Self::Named(value.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    /// Whether the rule is selected.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// What to look for, and whether a finding stops the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintOptions {
    /// Rules that are not looked at.
    pub skip: RuleSelection,
    /// Experimental rules that are looked at.
    pub experimental: RuleSelection,
    /// Whether a finding of one of BuildKit's rules stops the build.
    pub error: bool,
    /// Whether rbuild's own rules are looked at too. They never count for `error`.
    pub own_rules: bool,
}

/// A setting that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid check option `{0}` (known are skip=…, error=… and experimental=…)")]
pub struct CheckOptionError(pub String);

impl LintOptions {
    /// Reads the value of a check directive, or of the build argument `BUILDKIT_DOCKERFILE_CHECK` that replaces it.
    ///
    /// # Errors
    ///
    /// Fails for an unknown setting, one without `=`, and an `error` that is no truth value.
    pub fn parse(text: &str) -> Result<Self, CheckOptionError> {
        let mut options = Self { own_rules: true, ..Self::default() };
        if text.trim().is_empty() {
            return Ok(options);
        }
        for part in text.trim().splitn(MAX_SETTINGS, ';') {
            let error = || CheckOptionError(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(error)?;
            match key.trim() {
                "skip" => options.skip = RuleSelection::parse(value),
                "experimental" => options.experimental = RuleSelection::parse(value),
                "error" => options.error = parse_bool(value.trim()).ok_or_else(error)?,
                _ => return Err(error()),
            }
        }
        Ok(options)
    }

    /// Whether the rule is looked at in the file as a whole.
    pub(super) fn wants(&self, rule: &Rule) -> bool {
        let own = rule.group == super::RuleGroup::Rbuild;
        if own && !self.own_rules {
            return false;
        }
        if rule.experimental { self.experimental.holds(rule.name) } else { !self.skip.holds(rule.name) }
    }
}

/// Whether a comment right above the instruction turns the rule off.
pub(super) fn skipped_at(node: &Node, rule: &str) -> bool {
    node.comments
        .iter()
        .filter_map(|comment| check_comment(&comment.text))
        .filter_map(|value| LintOptions::parse(value).ok())
        .any(|options| options.skip.holds(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let options = LintOptions::parse(" skip= A, B ;error=true; experimental=all").unwrap();
        assert!(options.skip.holds("A") && options.skip.holds("B") && !options.skip.holds("C"));
        assert!(options.error && options.experimental.holds("X"));
        assert!(LintOptions::parse("skip=all").unwrap().skip.holds("anything"));
        assert_eq!(LintOptions::parse("").unwrap(), LintOptions { own_rules: true, ..LintOptions::default() });
        for text in ["ignore=all", "skip", "error=maybe"] {
            assert!(LintOptions::parse(text).unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
