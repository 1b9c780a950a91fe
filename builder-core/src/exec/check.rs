//! Looking at a Dockerfile without building it, and the warnings of a build.

use std::collections::BTreeSet;

use rbuild_dockerfile::lint::{
    BaseFacts, BaseRequest, FolderNames, IgnoreFile, LintContext, LintOptions, LintOutcome, LintWarning, RuleGroup,
    lint,
};
use rbuild_dockerfile::{Diagnostics, Dockerfile, find_stage};

use super::bases::{self, Resolved};
use super::build::{Build, Fetcher};
use super::context::{DOCKERFILE_LIMIT, DockerfileText};
use super::options::{BuildOptions, Cancel, ContextInput, DockerfileInput};
use crate::context::{IgnoreRules, Verdict, idle_patterns};
use crate::error::{BuildError, During, ErrorKind};
use crate::oci::{ImageConfig, Platform};
use crate::plan::{self, StageIndex, Stages};
use crate::progress::{Event, Events, Warning};
use crate::rootfs::{DirectoryTree, Root};
use crate::store::Store;
use crate::tree::{Node, TreePath, TreeView};

/// The build argument that takes the place of the directive `# check=`.
const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// A Dockerfile that was looked at.
#[derive(Debug)]
pub struct CheckResult {
    /// Its name.
    pub name: String,
    /// What it says.
    pub dockerfile: Dockerfile,
    /// What was found.
    pub outcome: LintOutcome,
    /// All that would end a build before its first step, as far as that shows without fetching more.
    pub error: Option<BuildError>,
}

/// Which rules are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuleSet {
    /// BuildKit's: what other builders report too, and no more.
    #[default]
    BuildKit,
    /// rbuild's own as well.
    All,
}

/// Where the configurations of base images come from. Rules that need one say nothing where it is not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseLookup {
    /// From this machine, else from registries.
    #[default]
    Anywhere,
    /// From this machine alone.
    Local,
}

/// How a Dockerfile is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// By which rules.
    pub rules: RuleSet,
    /// With which base images.
    pub bases: BaseLookup,
}

/// Rules of rbuild's own that a build tells too: what they report passes over failures. That files are lost in
/// copying is told by the step itself, which knows which.
const TOLD_BY_BUILDS: [&str; 1] = ["HeredocWithoutErrexit"];

/// What the linter is asked for.
#[derive(Debug, Clone, Copy)]
enum Look {
    /// A check: every stage counts where no target is given.
    Check(CheckOptions),
    /// The warnings of a build, whose bases are known.
    Build,
}

/// Checks the Dockerfile of a build by the linter's rules. Nothing is built.
///
/// # Errors
/// When the context or the Dockerfile can't be read, or a directive is wrong. Errors of the text, and of what it means,
/// are part of the result.
pub fn check(
    options: &BuildOptions,
    check_options: CheckOptions,
    events: Events,
    cancel: &Cancel,
) -> Result<CheckResult, BuildError> {
    let store = Store::open(&options.store).during(|| format!("open the store `{}`", options.store.display()))?;
    let fetcher = Fetcher { store: &store, options };
    let (context, DockerfileText { name, text }) = super::context::open(options, &store, &fetcher)?;
    let (dockerfile, diagnostics) = rbuild_dockerfile::parse(&text);
    let mut build = Build::new(options, events, cancel, store, context, &name);
    match lint_build(&build, &dockerfile, &diagnostics, Look::Check(check_options)) {
        Ok(outcome) => {
            let error = faults(&mut build, &dockerfile, diagnostics).map(|mut error| {
                error.dockerfile = Some((name.clone(), text));
                error
            });
            Ok(CheckResult { name, dockerfile, outcome, error })
        }
        Err(mut error) => {
            error.dockerfile.get_or_insert((name, text));
            Err(error)
        }
    }
}

/// What would end a build before its first step. Without a target every stage counts. Sources that are missing do not: a
/// Dockerfile is also checked where what it copies was not built yet.
fn faults(build: &mut Build<'_>, dockerfile: &Dockerfile, diagnostics: Diagnostics) -> Option<BuildError> {
    if diagnostics.has_errors() {
        return Some(ErrorKind::Dockerfile(diagnostics.into_iter().collect()).into());
    }
    let named = |target: &str| find_stage(&dockerfile.stages, target, dockerfile.stages.len());
    let stages = match build.options.target.as_deref() {
        None => Stages::All,
        // The linter takes numbers too, which builds do not.
        Some(target) => named(target).map_or(Stages::Needed, |stage| Stages::NeededBy(StageIndex(stage.index))),
    };
    let mut errors = Vec::new();
    for platform in 0..build.platforms().len() {
        errors.extend(build.look_through(dockerfile, platform, stages));
    }
    BuildError::several(errors)
}

/// Tells the linter's findings as warnings of a build.
///
/// # Errors
/// When a directive is wrong, or asks that findings stop the build.
pub(crate) fn warn(build: &Build<'_>, dockerfile: &Dockerfile, diagnostics: &Diagnostics) -> Result<(), BuildError> {
    let outcome = lint_build(build, dockerfile, diagnostics, Look::Build)?;
    let place = |found: &LintWarning| dockerfile.lines().line_span(found.lines.first).map(|span| span.range());
    let is_told = |found: &&LintWarning| found.group == RuleGroup::BuildKit || TOLD_BY_BUILDS.contains(&found.rule);
    for found in outcome.warnings.iter().filter(is_told) {
        build.events.event(Event::Warning(Warning {
            rule: found.rule.to_owned(),
            message: found.detail.clone(),
            help: String::new(),
            span: place(found),
        }));
    }
    let asked = |options: LintOptions| options.error;
    match outcome.error {
        // Other faults are told better by the build itself.
        Some(error) if asked(lint_options(build.options, dockerfile)?) && error.lines.is_none() => {
            let first = outcome.warnings.iter().find(|found| found.group == RuleGroup::BuildKit);
            let help = "`error=true` of the check directive asks for this; `rbuild check` explains each finding";
            Err(BuildError::plan("check-failed", error.message, help, first.and_then(place)))
        }
        _ => Ok(()),
    }
}

fn lint_options(options: &BuildOptions, dockerfile: &Dockerfile) -> Result<LintOptions, BuildError> {
    let directive = dockerfile.directives.check.as_ref();
    let (text, span) = match (options.build_args.get(CHECK_ARG), directive) {
        (Some(text), _) => (text.as_str(), None),
        (None, Some(directive)) => (directive.value.as_str(), Some(directive.span.range())),
        (None, None) => ("", None),
    };
    LintOptions::parse(text).map_err(|error| {
        BuildError::plan("invalid-check-directive", format!("cannot read `check={text}`: {error}"), "", span)
    })
}

fn lint_build(
    build: &Build<'_>,
    dockerfile: &Dockerfile,
    diagnostics: &Diagnostics,
    look: Look,
) -> Result<LintOutcome, BuildError> {
    let options = build.plan_options(&build.target_platform());
    let own_rules = !matches!(look, Look::Check(CheckOptions { rules: RuleSet::BuildKit, .. }));
    let base = |request: &BaseRequest<'_>| base_facts(build, &options.named_contexts, request, look);
    let rules = build.context_rules().filter(|rules| !rules.is_empty() && !rules.has_exceptions());
    let ignored = |path: &str| rules.is_some_and(|rules| is_ignored(rules, path));
    let view = build.context_view();
    let names = |path: &str| names(&*view, path);
    let looks_at_files = matches!(look, Look::Check(CheckOptions { rules: RuleSet::All, .. }));
    let ignore_file = if looks_at_files { ignore_file(build) } else { None };
    let context = LintContext {
        predefined_args: plan::predefined_args(dockerfile, &options),
        target: options.target.as_deref(),
        all_stages: options.target.is_none() && matches!(look, Look::Check(_)),
        target_platform: &options.platform.to_string(),
        named_contexts: options.named_contexts.iter().map(|name| name.to_lowercase()).collect(),
        base: &base,
        ignored: rules.is_some().then_some(&ignored as &dyn Fn(&str) -> bool),
        names: looks_at_files.then_some(&names as &FolderNames<'_>),
        ignore_file: ignore_file.as_ref(),
        options: LintOptions { own_rules, ..lint_options(build.options, dockerfile)? },
        ..LintContext::new(&options.build_args)
    };
    Ok(lint(dockerfile, diagnostics, &context))
}

/// Whether the rules leave out a path or the folder that it is in.
fn is_ignored(rules: &IgnoreRules, path: &str) -> bool {
    rules.verdict(&TreePath::clean(path.as_bytes())) != Verdict::Kept
}

/// The names in a folder of the context; `None` for what is no folder or can't be read.
fn names(view: &dyn TreeView, path: &str) -> Option<Vec<String>> {
    let path = TreePath::clean(path.as_bytes());
    let is_folder = path.is_root() || matches!(view.get(&path).ok()??.node, Node::Directory { .. });
    let entries = view.read_dir(&path).ok().filter(|_| is_folder)?;
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    Some(entries.iter().filter_map(|entry| entry.path.file_name().map(name)).collect())
}

/// The ignore file of a context that is a folder, held against what is in that.
fn ignore_file(build: &Build<'_>) -> Option<IgnoreFile> {
    let (folder, name) = build.context_folder()?;
    let ContextInput::Directory(path) = &build.options.context else { return None };
    let bytes = match &build.options.dockerfile {
        DockerfileInput::Text { ignore: Some((_, bytes)), .. } => bytes.clone(),
        _ => folder.read_unfiltered(name.as_bytes(), DOCKERFILE_LIMIT).ok()??,
    };
    let text = String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_owned();
    let everything = Root::open(path).map(DirectoryTree::new).ok()?;
    let idle = idle_patterns(&text, folder.rules(), &everything);
    Some(IgnoreFile { name: name.clone(), text, idle })
}

fn base_facts(
    build: &Build<'_>,
    named_contexts: &BTreeSet<String>,
    request: &BaseRequest<'_>,
    look: Look,
) -> Option<BaseFacts> {
    let platform: Platform = match request.platform {
        Some(text) => text.parse().ok()?,
        None => build.target_platform(),
    };
    let source = plan::external_source(named_contexts, request.name, &platform).ok()?;
    let resolved = match look {
        Look::Check(CheckOptions { bases: BaseLookup::Local, .. }) => {
            return bases::known_config(build, &source).as_ref().map(facts);
        }
        Look::Check(CheckOptions { bases: BaseLookup::Anywhere, .. }) => build.bases.try_resolve(build, &source),
        Look::Build => build.bases.resolved(&source),
    };
    match resolved? {
        Resolved::Image(base) => Some(facts(&base.config)),
        Resolved::Folder(_) => None,
    }
}

fn facts(config: &ImageConfig) -> BaseFacts {
    let variable = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let platform = config.platform();
    BaseFacts {
        env: config.config.env.iter().map(variable).collect(),
        shell: config.config.shell.clone(),
        onbuild: config.config.on_build.clone(),
        platform: (!platform.os.is_empty()).then(|| platform.to_string()),
    }
}
