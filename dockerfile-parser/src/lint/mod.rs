//! The linter: BuildKit's 22 rules under their own names, and some more of rbuild's.
//!
//! Rules are functions over an evaluation of the file, one file each, listed in [`RULES`]. BuildKit's rules that
//! look at instructions in order ([`Phase::Build`]) see only the stages that the target needs; those that look at
//! the text ([`Phase::Parse`]) and at the stages as a whole ([`Phase::Stages`]) see all of the file. A syntax error
//! hides what BuildKit would not have come to.
//!
//! Rules are turned off by `# check=skip=…` at the top for the file, and right above an instruction for that one.

mod evaluate;
mod faults;
mod files;
mod image_name;
mod options;
mod platform;
mod play;
mod report;
mod rules;

pub use files::{FindingFile, IdlePattern, IdleReason, IgnoreFile};
pub use options::{CheckOptionError, LintOptions, RuleSelection};
pub use report::{JsonError, JsonLocation, JsonPosition, JsonRange, JsonReport, JsonSource, JsonWarning, TextReport};

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::dockerfile::{Dockerfile, Node};
use crate::span::LineRange;
use crate::stage::Stage;
use evaluate::{Evaluation, evaluate};

/// When a rule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// With the lines, before anything is understood.
    Lines,
    /// With each instruction, in order, up to the first error.
    Parse,
    /// With all stages, if there is no syntax error.
    Stages,
    /// With the instructions of the stages that are needed.
    Build,
}

/// Whose rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleGroup {
    /// BuildKit has it too; it counts for `error=true`.
    BuildKit,
    /// Only rbuild has it.
    Rbuild,
}

/// A rule of the linter.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// Where it is explained; empty for rbuild's own.
    pub url: &'static str,
    /// When it is looked at.
    pub phase: Phase,
    /// Whose it is.
    pub group: RuleGroup,
    /// Whether it must be asked for with `experimental=`.
    pub experimental: bool,
    check: fn(&Evaluation<'_>, &mut Findings<'_>),
}

/// All rules: BuildKit's in the order of its documentation, then rbuild's.
pub const RULES: [Rule; 32] = rules::ALL;

/// Whether a variable's name says that its value is a secret, as the rule `SecretsUsedInArgOrEnv` has it.
#[must_use]
pub fn names_a_secret(name: &str) -> bool {
    rules::is_secret(name)
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintWarning {
    /// The rule's name.
    pub rule: &'static str,
    /// What the rule asks for.
    pub description: &'static str,
    /// Where the rule is explained, or empty.
    pub url: &'static str,
    /// What is the matter here.
    pub detail: String,
    /// The lines.
    pub lines: LineRange,
    /// Whose lines they are.
    pub file: FindingFile,
    /// Whose rule it is.
    pub group: RuleGroup,
}

/// A fault that ends the build before anything is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildError {
    /// What is wrong.
    pub message: String,
    /// Where, if it has a place.
    pub lines: Option<LineRange>,
}

/// What is known of a base image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseFacts {
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its recorded shell, empty for none.
    pub shell: Vec<String>,
    /// Its triggers.
    pub onbuild: Vec<String>,
    /// Its platform, `os/architecture[/variant]`, if the image says.
    pub platform: Option<String>,
}

/// The base image that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct BaseRequest<'a> {
    /// The stage built on it.
    pub stage: &'a Stage,
    /// Its name after expansion.
    pub name: &'a str,
    /// The stage's `--platform` after expansion.
    pub platform: Option<&'a str>,
}

/// Gives the names in a folder of the build context, `None` for what is no folder.
pub type FolderNames<'a> = dyn Fn(&str) -> Option<Vec<String>> + 'a;

/// What the linter must know beside the file. [`LintContext::new`] gives one that knows nothing.
#[derive(Clone)]
pub struct LintContext<'a> {
    /// Build arguments given by the user.
    pub build_args: &'a BTreeMap<String, String>,
    /// Arguments that every FROM knows, such as `TARGETPLATFORM`, overrides by the user included.
    pub predefined_args: BTreeMap<String, String>,
    /// The stage to build; the last one without it.
    pub target: Option<&'a str>,
    /// Look at all stages, needed or not, as a check without a target does.
    pub all_stages: bool,
    /// The platform that is built for, to compare base images with.
    pub target_platform: &'a str,
    /// `PATH` of images that set none.
    pub default_path: &'a str,
    /// Names (lower case) of contexts that take the place of a stage of that name.
    pub named_contexts: BTreeSet<String>,
    /// What is known of a base image; `None` turns off the rules that would have to know.
    pub base: &'a dyn Fn(&BaseRequest<'_>) -> Option<BaseFacts>,
    /// Whether `.dockerignore` excludes a cleaned path or a parent of it. `None` if there is no such file or it holds
    /// exceptions (`!`), where that cannot be decided by name.
    pub ignored: Option<&'a dyn Fn(&str) -> bool>,
    /// The names in a folder of the build context that belong to it, by the folder's cleaned path, which is empty for the
    /// context itself; `None` for what is no folder. Without it the rules about copied files are silent.
    pub names: Option<&'a FolderNames<'a>>,
    /// The context's ignore file, if its patterns were held against the context.
    pub ignore_file: Option<&'a IgnoreFile>,
    /// What to look for.
    pub options: LintOptions,
}

impl<'a> LintContext<'a> {
    /// A context without arguments, base images and ignored files, for `linux/amd64`.
    pub fn new(build_args: &'a BTreeMap<String, String>) -> Self {
        Self {
            build_args,
            predefined_args: BTreeMap::new(),
            target: None,
            all_stages: false,
            target_platform: "linux/amd64",
            default_path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            named_contexts: BTreeSet::new(),
            base: &|_| None,
            ignored: None,
            names: None,
            ignore_file: None,
            options: LintOptions { own_rules: true, ..LintOptions::default() },
        }
    }
}

/// What the linter found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintOutcome {
    /// The findings: those of the Dockerfile by line and then by rule, then those of the ignore file.
    pub warnings: Vec<LintWarning>,
    /// A fault that ends the build: a syntax error, a failing expansion, or findings where `error=true` is set.
    pub error: Option<BuildError>,
    /// Name and text of the ignore file, if something was found in it.
    pub ignore_file: Option<(String, String)>,
}

/// Collects what one rule finds.
pub(crate) struct Findings<'a> {
    rule: &'a Rule,
    context: &'a LintContext<'a>,
    /// The node of the first syntax error: rules of the parse phase stop there.
    end: usize,
    list: Vec<LintWarning>,
}

impl Findings<'_> {
    /// Reports the lines of an instruction.
    fn at(&mut self, node: &Node, detail: String) {
        self.at_lines(node, node.lines, detail);
    }

    fn at_lines(&mut self, node: &Node, lines: LineRange, detail: String) {
        if node.span.start >= self.end || options::skipped_at(node, self.rule.name) {
            return;
        }
        self.push(FindingFile::Dockerfile, lines, detail);
    }

    /// Reports a line of the ignore file.
    fn at_ignore_line(&mut self, line: usize, detail: String) {
        self.push(FindingFile::IgnoreFile, LineRange { first: line, last: line }, detail);
    }

    fn push(&mut self, file: FindingFile, lines: LineRange, detail: String) {
        self.list.push(LintWarning {
            rule: self.rule.name,
            description: self.rule.description,
            url: self.rule.url,
            detail,
            lines,
            file,
            group: self.rule.group,
        });
    }
}

/// Codes of errors that are found while lines are read, before any instruction is looked at.
const READING_ERRORS: [&str; 9] = [
    "duplicate-directive",
    "empty-file",
    "invalid-escape",
    "json-not-strings",
    "line-too-long",
    "missing-equals",
    "missing-value",
    "no-instructions",
    "unterminated-heredoc",
];

/// Looks for findings in a parsed file. `diagnostics` are those of its parse.
///
/// ```
/// use std::collections::BTreeMap;
/// use rbuild_dockerfile::lint::{LintContext, lint};
///
/// let (file, diagnostics) = rbuild_dockerfile::parse("FROM debian:12 AS Build\nMAINTAINER me\n");
/// let build_args = BTreeMap::new();
/// let outcome = lint(&file, &diagnostics, &LintContext::new(&build_args));
/// let found: Vec<(usize, &str)> = outcome.warnings.iter().map(|found| (found.lines.first, found.rule)).collect();
/// assert_eq!(found, [(1, "StageNameCasing"), (2, "MaintainerDeprecated")]);
/// ```
pub fn lint(file: &Dockerfile, diagnostics: &Diagnostics, context: &LintContext<'_>) -> LintOutcome {
    let reading = diagnostics.iter().find(|diagnostic| READING_ERRORS.contains(&diagnostic.code));
    if let Some(diagnostic) = reading {
        return LintOutcome { error: Some(syntax_error(file, diagnostic)), ..LintOutcome::default() };
    }
    let syntax = diagnostics.first_error();
    let evaluation = match syntax {
        Some(diagnostic) => Evaluation { file, stages: Vec::new(), error: Some(syntax_error(file, diagnostic)) },
        None => evaluate(file, context),
    };
    let first_error = syntax.map_or(usize::MAX, |diagnostic| diagnostic.span.start);
    let mut warnings = Vec::new();
    for rule in RULES.iter().filter(|rule| context.options.wants(rule)) {
        if syntax.is_some() && rule.phase > Phase::Parse {
            continue;
        }
        let end = if rule.phase == Phase::Parse { node_start(file, first_error) } else { usize::MAX };
        let mut findings = Findings { rule, context, end, list: Vec::new() };
        (rule.check)(&evaluation, &mut findings);
        warnings.append(&mut findings.list);
    }
    let order = |found: &LintWarning| (found.file, found.lines, found.group, found.rule);
    warnings.sort_by_key(order);
    let error = evaluation.error.or_else(|| counted_error(&warnings, &context.options));
    let in_ignore_file = warnings.iter().any(|found| found.file == FindingFile::IgnoreFile);
    let ignore_file = context.ignore_file.filter(|_| in_ignore_file);
    let ignore_file = ignore_file.map(|file| (file.name.clone(), file.text.clone()));
    LintOutcome { warnings, error, ignore_file }
}

/// The start of the instruction that holds the byte.
fn node_start(file: &Dockerfile, at: usize) -> usize {
    file.instructions.iter().find(|node| node.span.start <= at && at < node.span.end).map_or(at, |node| node.span.start)
}

fn syntax_error(file: &Dockerfile, diagnostic: &Diagnostic) -> BuildError {
    let line = file.lines().line(diagnostic.span.start);
    BuildError { message: diagnostic.with_line(file.lines()), lines: Some(LineRange { first: line, last: line }) }
}

fn counted_error(warnings: &[LintWarning], options: &LintOptions) -> Option<BuildError> {
    if !options.error {
        return None;
    }
    let names: BTreeSet<&str> =
        warnings.iter().filter(|warning| warning.group == RuleGroup::BuildKit).map(|warning| warning.rule).collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    Some(BuildError { message: format!("lint violation found for rules: {}", names.join(", ")), lines: None })
}

#[cfg(test)]
mod tests;
