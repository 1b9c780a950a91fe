//! `rbuild doctor`: what this machine can do, and what would make it better.

use std::fs;

use rbuild_core::oci::Platform;
use rbuild_core::sys::emulation::{Emulator, emulators};
use rbuild_core::sys::userns::{Fact, Probe, ProbeOptions, probe};
use serde_json::{Value, json};

use super::{namespace, print_data, print_json};
use crate::args::{DoctorArgs, Format};
use crate::error::{Failure, Kind};
use crate::output::visible;
use crate::settings::{Environment, GlobalSettings};

/// Looks and tells; the exit status is 0 where RUN steps can be kept apart by namespaces, 3 where they cannot.
pub(super) fn run(args: &DoctorArgs, global: &GlobalSettings, environment: &Environment) -> Result<u8, Failure> {
    let refusal = namespace::enter(environment)?.refusal;
    fs::create_dir_all(&global.root).map_err(|error| {
        Failure::caused(
            Kind::Environment,
            format!("cannot make the store's folder `{}`", global.root.display()),
            &error,
        )
        .hint("name another folder with `--root DIR` or RBUILD_ROOT")
    })?;
    let path = namespace::search_path(environment);
    let probe = probe(ProbeOptions { search_path: &path, directory: &global.root });
    let found = Found { probe, emulators: emulators(), refusal, is_root: environment.is_root };
    match args.format {
        Format::Json => print_json(&found.to_json(global))?,
        Format::Table => print_data(found.to_text(global, environment).as_bytes())?,
    }
    Ok(if found.namespaces() { 0 } else { 3 })
}

/// Everything that was found.
struct Found {
    probe: Probe,
    emulators: Option<Vec<Emulator>>,
    refusal: Option<Failure>,
    is_root: bool,
}

/// One way to keep RUN steps apart.
struct Rung {
    name: &'static str,
    available: bool,
    detail: &'static str,
}

impl Found {
    fn namespaces(&self) -> bool {
        self.refusal.is_none() && self.probe.namespaces()
    }

    fn rungs(&self) -> [Rung; 2] {
        let namespaces = Rung {
            name: "namespaces",
            available: self.namespaces(),
            detail: "RUN steps in namespaces of their own, over an overlay file system",
        };
        let chroot = Rung {
            name: "chroot",
            available: self.is_root,
            detail: if self.is_root {
                "with `--isolation=chroot`; no security boundary"
            } else {
                "needs root; no security boundary"
            },
        };
        [namespaces, chroot]
    }

    /// What the user can do about a fact.
    fn hint(&self, fact: &Fact) -> Option<String> {
        if fact.available {
            return None;
        }
        let of_refusal = || {
            let hints = &self.refusal.as_ref()?.problems.first()?.hints;
            hints.first().filter(|hint| !hint.contains("doctor")).cloned()
        };
        match fact.name {
            "kernel" => Some("update the kernel".to_owned()),
            "user namespaces" | "subordinate ids" => of_refusal(),
            "overlay" => Some(
                "keep the store on ext4, xfs, btrfs or tmpfs, outside of a container's own files: `--root DIR`"
                    .to_owned(),
            ),
            "sandbox" if self.is_root => Some(
                "run with `--privileged`, or build with `--isolation=chroot`, which is no security boundary".to_owned(),
            ),
            "sandbox" => of_refusal(),
            "private network" if fact.detail.contains("tun") => {
                Some("load the kernel's module: `sudo modprobe tun`".to_owned())
            }
            "private network" => {
                Some("install the package `passt`; until then RUN steps use the host's network".to_owned())
            }
            "control groups" => Some("boot with `systemd.unified_cgroup_hierarchy=1`".to_owned()),
            _ => None,
        }
    }

    fn to_json(&self, global: &GlobalSettings) -> Value {
        let fact = |fact: &Fact| {
            json!({
                "name": fact.name, "available": fact.available, "required": fact.required, "detail": fact.detail,
                "hint": self.hint(fact),
            })
        };
        let emulator = |emulator: &Emulator| {
            json!({
                "architecture": emulator.architecture, "interpreter": emulator.interpreter.to_string_lossy(),
                "open": emulator.is_open,
            })
        };
        let rung = |rung: Rung| json!({ "name": rung.name, "available": rung.available, "detail": rung.detail });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "platform": Platform::host().to_string(),
            "root": self.is_root,
            "store": global.root,
            "isolation": self.rungs().map(rung),
            "facts": self.probe.facts.iter().map(fact).collect::<Vec<_>>(),
            "emulators": self.emulators.as_ref().map(|all| all.iter().map(emulator).collect::<Vec<_>>()),
            "refusal": self.refusal.as_ref().map(Failure::to_json),
        })
    }

    fn emulators_text(&self) -> String {
        let Some(all) = &self.emulators else {
            return "\nemulators for other platforms: the kernel's list is not mounted here; they are tried when needed\n"
                .to_owned();
        };
        if all.is_empty() {
            return "\nemulators for other platforms: none (Debian: apt-get install qemu-user-static)\n".to_owned();
        }
        let mut text = "\nemulators for other platforms:\n".to_owned();
        for emulator in all {
            let how = if emulator.is_open { "opened by the kernel" } else { "shown to each step" };
            let path = visible(&emulator.interpreter.to_string_lossy());
            text.push_str(&format!("  linux/{:<10} {path} ({how})\n", emulator.architecture));
        }
        text
    }

    fn to_text(&self, global: &GlobalSettings, environment: &Environment) -> String {
        let mark = |available: bool, required: bool| match (available, required, environment.is_utf8()) {
            (true, _, true) => "✓ yes",
            (true, _, false) => "yes",
            (false, true, true) => "✗ no",
            (false, true, false) => "no",
            (false, false, true) => "- no",
            (false, false, false) => "no",
        };
        let user = if self.is_root { "root" } else { "an ordinary user" };
        let mut text = format!("rbuild {} for {}, run by {user}\n", env!("CARGO_PKG_VERSION"), Platform::host());
        text.push_str(&format!("store: {}\n\nisolation of RUN steps:\n", global.root.display()));
        for rung in self.rungs() {
            text.push_str(&format!("  {:<6} {:<16} {}\n", mark(rung.available, false), rung.name, rung.detail));
        }
        text.push_str("\nthis machine:\n");
        for fact in &self.probe.facts {
            let mark = mark(fact.available, fact.required);
            text.push_str(&format!("  {mark:<6} {:<16} {}\n", fact.name, visible(&fact.detail)));
            if let Some(hint) = self.hint(fact) {
                text.push_str(&format!("  {:<6} {:<16} hint: {hint}\n", "", ""));
            }
        }
        text.push_str(&self.emulators_text());
        if let Some(refusal) = &self.refusal {
            for problem in &refusal.problems {
                text.push_str(&format!("\n{}\n", visible(&problem.message)));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &'static str, available: bool, required: bool) -> Fact {
        Fact { name, available, required, detail: format!("about {name}") }
    }

    fn found(facts: Vec<Fact>, refusal: Option<Failure>) -> Found {
        Found { probe: Probe { facts }, emulators: Some(Vec::new()), refusal, is_root: false }
    }

    #[test]
    fn words_say_what_marks_say() {
        let facts =
            vec![fact("kernel", true, true), fact("overlay", false, true), fact("private network", false, false)];
        let environment = Environment::of(&[("LANG", "C"), ("HOME", "/h")]);
        let global = GlobalSettings::new(&crate::args::GlobalArgs::default(), &environment).unwrap();
        let found = found(facts, None);
        assert!(!found.namespaces());
        let text = found.to_text(&global, &environment);
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains("  no     overlay          about overlay\n"), "{text}");
        assert_eq!(text.matches("hint:").count(), 2, "{text}");
        let json = found.to_json(&global);
        assert_eq!(json["isolation"][0]["available"], false);
        assert_eq!(json["facts"][1]["required"], true);
    }

    #[test]
    fn refusal_s_hint_stands_beside_its_fact() {
        let refusal = Failure::new(Kind::Environment, "no ids").hint("give the user a range").hint("`rbuild doctor` …");
        let found = found(vec![fact("subordinate ids", false, true)], Some(refusal));
        assert_eq!(found.hint(&found.probe.facts[0]).as_deref(), Some("give the user a range"));
        assert!(!found.namespaces());
    }
}
