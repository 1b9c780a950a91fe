//! The small languages of flags and values: mounts, ports, signals, durations, modes, lint options.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::HeredocWord;
use rbuild_dockerfile::chmod::ChmodSpec;
use rbuild_dockerfile::duration::{format_duration, parse_duration};
use rbuild_dockerfile::lint::LintOptions;
use rbuild_dockerfile::mount::{check_mount_text, parse_mount_constant};
use rbuild_dockerfile::port::parse_port;
use rbuild_dockerfile::signal::parse_signal;

/// A range of ports is counted one by one.
const PORTS: usize = 65_536;

fuzz_target!(|text: &str| {
    if let Ok(mount) = parse_mount_constant(text) {
        assert!(check_mount_text(text).is_ok());
        let _ = (mount.effective_id(), mount.secret_target());
    }
    if let Ok(spec) = parse_port(text) {
        assert!(spec.keys().count() <= PORTS);
    }
    if let Ok(signal) = parse_signal(text) {
        // Negative numbers are taken, as BuildKit takes them.
        assert_ne!(signal, 0);
    }
    if let Ok(nanoseconds) = parse_duration(text)
        && let Ok(positive) = u64::try_from(nanoseconds)
    {
        assert_eq!(parse_duration(&format_duration(positive)), Ok(nanoseconds));
    }
    if let Ok(spec) = ChmodSpec::parse(text) {
        for (mode, is_directory) in [(0, false), (0o644, false), (0o4755, true), (0o7777, true)] {
            assert!(spec.apply(mode, is_directory) <= 0o7777);
        }
    }
    let _ = LintOptions::parse(text);
    if let Some(word) = HeredocWord::parse(text) {
        assert!(text.contains("<<") && word.name.len() <= text.len());
    }
});
