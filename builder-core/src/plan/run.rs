//! RUN: the command, its environment and its mounts, decided.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rbuild_dockerfile::device::parse_device;
use rbuild_dockerfile::instruction::{CommandLine, Run as RunInstruction, RunNetwork, RunScript, RunSecurity};
use rbuild_dockerfile::mount::{Mount, MountType, parse_mount, parse_mount_constant};
use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Span, Word, history};

use super::error::{PlanError, PlanErrors, code, each};
use super::stage::{Walk, places};
use super::step::{Action, NetworkChoice, Run, Source};
use super::variables::PROXY_ARGS;
use super::workdir::join_directory;

/// The host name inside RUN where no build argument sets another.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// The names that mounts are `from`, as written. A mount that does not parse is reported when its stage is planned.
pub(super) fn mount_sources(run: &RunInstruction) -> Vec<(String, Span)> {
    run.mounts
        .iter()
        .filter_map(|word| {
            let mount = parse_mount_constant(&word.text).ok()?;
            has_source(&mount).then_some((mount.from, word.span))
        })
        .collect()
}

/// COMPAT(buildkit): `from` of a tmpfs is read and means nothing.
fn has_source(mount: &Mount) -> bool {
    !mount.from.is_empty() && mount.kind != MountType::Tmpfs
}

impl Walk<'_> {
    pub(super) fn run(&mut self, run: &RunInstruction, span: Option<Range<usize>>) -> Result<(), PlanErrors> {
        let mounts: Vec<(Mount, Option<Source>)> = each(&run.mounts, |word| {
            let mut expanded = |value: &str| expand(value, self.escape, &self.lookup()).map(|e| e.text);
            let mount = parse_mount(&word.text, &mut expanded)
                .map_err(|e| PlanError::new(code::MOUNT, e.to_string(), word.span))?;
            check_target(&mount, &self.working_dir(), word)?;
            let from = match has_source(&mount) {
                true => Some((self.resolve)(&mount.from, word.span)?),
                false => None,
            };
            Ok((mount, from))
        })?;
        let devices = each(&run.devices, |word| {
            let device =
                parse_device(&word.text).map_err(|e| PlanError::new(code::DEVICE, e.to_string(), word.span))?;
            Ok((device.name, device.required))
        })?;
        let script = run.script();
        let argv = script.arguments(&self.shell());
        let history = self.history(history::run(&self.declared_args(), &argv), false);
        let scripts = match script {
            RunScript::File { name, content } => vec![(name, Arc::from(content))],
            RunScript::Exec(_) | RunScript::Shell(_) => Vec::new(),
        };
        let variables = &self.state.variables;
        let args = &self.options.build_args;
        let action = Run {
            env: variables.pairs().collect(),
            args: variables.args().map(str::to_owned).collect(),
            proxy_env: proxies(args),
            working_dir: self.working_dir(),
            user: self.state.plan.config.config.user.clone(),
            mounts,
            mount_places: places(&run.mounts, span.as_ref()),
            network: match run.network {
                RunNetwork::Default => self.options.network,
                RunNetwork::None => NetworkChoice::None,
                RunNetwork::Host => NetworkChoice::Host,
            },
            insecure: matches!(run.security, RunSecurity::Insecure),
            devices,
            scripts,
            cache_namespace: args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default(),
            hostname: args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|h| !h.is_empty())
                .cloned()
                .unwrap_or_else(|| HOSTNAME.to_owned()),
            argv: argv.clone(),
        };
        let command = match &run.command {
            CommandLine::Shell(word) => word.text.clone(),
            CommandLine::Exec(_) => argv.join(" "),
        };
        self.step(format!("RUN {}", command.replace('\n', " ")), span, Action::Run(Box::new(action)), history);
        self.note_heredocs(&run.heredocs);
        Ok(())
    }
}

/// Refuses mounts that would cover the whole root.
fn check_target(mount: &Mount, working_dir: &str, word: &Word) -> Result<(), PlanError> {
    if !matches!(mount.kind, MountType::Bind | MountType::Cache | MountType::Tmpfs) {
        return Ok(());
    }
    // COMPAT(buildkit): without a target the mount is at the working directory.
    if join_directory(working_dir, &mount.target) == "/" {
        let message = format!("invalid mount target `{}`: the whole root can't be mounted over", mount.target);
        let error = PlanError::new(code::MOUNT, message, word.span);
        return Err(if mount.target.is_empty() { error.with_help("add target=DIRECTORY") } else { error });
    }
    Ok(())
}

/// The proxy variables: each in upper and lower case, whichever of the two was given.
fn proxies(args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    PROXY_ARGS
        .iter()
        .filter_map(|name| {
            let other = if name.starts_with(char::is_uppercase) { name.to_lowercase() } else { name.to_uppercase() };
            let value = args.get(*name).or_else(|| args.get(&other))?;
            Some(((*name).to_owned(), value.clone()))
        })
        .collect()
}
