//! As much of platform names as the rules need: operating system and architecture.

/// Operating system and architecture, normalised. One of them is empty if the text named only the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
}

const SYSTEMS: [&str; 14] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "solaris",
    "windows",
];

const ARCHITECTURES: [&str; 20] = [
    "386", "amd64", "arm", "arm64", "armbe", "arm64be", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc",
    "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc64", "wasm",
];

/// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`.
pub(super) fn parse_platform(text: &str) -> Option<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    };
    if parts.len() > 3 || !parts.iter().all(|part| word(part)) {
        return None;
    }
    let first = parts[0].to_lowercase();
    let os = if first == "macos" { "darwin".to_owned() } else { first };
    match parts.get(1) {
        Some(architecture) => Some(Platform { os, architecture: normalise(architecture) }),
        None if SYSTEMS.contains(&os.as_str()) => Some(Platform { os, architecture: String::new() }),
        None => {
            let architecture = normalise(parts[0]);
            let known = ARCHITECTURES.contains(&architecture.as_str());
            known.then(|| Platform { os: String::new(), architecture })
        }
    }
}

fn normalise(architecture: &str) -> String {
    let lower = architecture.to_lowercase();
    match lower.as_str() {
        "i386" => "386",
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        other => other,
    }
    .to_owned()
}
