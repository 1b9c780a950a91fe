//! Platforms: operating system, architecture and variant of an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text is not a platform.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{text}` is not a platform: {reason}")]
pub struct PlatformError {
    text: String,
    reason: &'static str,
}

/// The platform of an image, in the names of Go's `GOOS` and `GOARCH` (OCI image spec, "Image Index").
///
/// Parsed texts are normalised as containerd does: `x86_64` is `amd64`, `aarch64` is `arm64`, the variant `v8` of
/// `arm64` is left out, `armhf` is `arm/v7`, and so on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU architecture, such as `amd64`.
    pub architecture: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The version of the operating system; used by Windows images.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features that the operating system must have.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the CPU, such as `v7` of `arm`; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// Makes a normalised platform.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) =
            normalise_architecture(&architecture.to_ascii_lowercase(), &variant.to_ascii_lowercase());
        Self { architecture, os, os_version: String::new(), os_features: Vec::new(), variant }
    }

    /// The platform that programs of this machine run on.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// Its text with the version of the operating system, as `TARGETPLATFORM` has it.
    pub(crate) fn with_os_version(&self) -> String {
        let text = self.to_string();
        match text.strip_prefix(&self.os).filter(|_| !self.os_version.is_empty()) {
            Some(rest) => format!("{}({}){rest}", self.os, self.os_version),
            None => text,
        }
    }

    /// Whether programs for `self` run on this machine without an emulator. Most 64-bit processors run the programs of
    /// their 32-bit ancestors.
    #[must_use]
    pub fn runs_natively_on(&self, host: &Self) -> bool {
        let ancestor = matches!(
            (host.architecture.as_str(), self.architecture.as_str()),
            ("amd64", "386") | ("arm64", "arm") | ("mips64", "mips") | ("mips64le", "mipsle")
        );
        self.os == host.os && (self.architecture == host.architecture || ancestor)
    }

    /// Whether an image for `self` serves a request for `wanted`.
    #[must_use]
    pub fn satisfies(&self, wanted: &Self) -> bool {
        let have = Self::new(&self.os, &self.architecture, &self.variant);
        let want = Self::new(&wanted.os, &wanted.architecture, &wanted.variant);
        have.os == want.os
            && have.architecture == want.architecture
            && (have.variant == want.variant
                || want.variant.is_empty()
                || (have.architecture == "arm" && have.variant <= want.variant))
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64" | "powerpc64le", v) => ("ppc64le", v),
        (a, v) => (a, v),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads `os/arch[/variant]`, or one of the two alone; what is missing comes from this machine. The system may have
    /// its version and features behind it: `os(version+feature)`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = |reason| PlatformError { text: text.chars().take(100).collect(), reason };
        let mut parts: Vec<&str> = text.split('/').collect();
        let (system, rest) = parts[0].split_once('(').map_or((parts[0], None), |(os, rest)| (os, Some(rest)));
        parts[0] = system;
        let valid = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if !parts.iter().all(valid) {
            return Err(error("want OS/ARCH or OS/ARCH/VARIANT of letters, digits, `_`, `-` and `.`"));
        }
        let (mut os_version, mut os_features) = (String::new(), Vec::new());
        if let Some(rest) = rest {
            let mut words = rest.strip_suffix(')').ok_or_else(|| error("want OS(VERSION)/ARCH"))?.split('+');
            words.next().unwrap_or_default().clone_into(&mut os_version);
            os_features.extend(words.map(str::to_owned));
            if !(os_version.is_empty() || valid(&os_version.as_str()))
                || !os_features.iter().all(|f| valid(&f.as_str()))
            {
                return Err(error("want OS(VERSION)/ARCH"));
            }
        }
        let is_os = |p: &str| {
            [
                "linux",
                "windows",
                "darwin",
                "macos",
                "freebsd",
                "netbsd",
                "openbsd",
                "solaris",
                "wasip1",
                "js",
                "android",
                "aix",
                "illumos",
                "plan9",
                "dragonfly",
                "ios",
            ]
            .contains(&p.to_ascii_lowercase().as_str())
        };
        let is_arch = |p: &str| {
            let (arch, _) = normalise_architecture(&p.to_ascii_lowercase(), "");
            [
                "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
                "riscv64", "s390x", "wasm", "sparc64",
            ]
            .contains(&arch.as_str())
        };
        let platform = match parts[..] {
            [os] if is_os(os) => Self::new(os, std::env::consts::ARCH, ""),
            [arch] if is_arch(arch) => Self::new("linux", arch, ""),
            [_] => return Err(error("unknown operating system or architecture")),
            [os, arch] => Self::new(os, arch, ""),
            [os, arch, variant] => Self::new(os, arch, variant),
            _ => return Err(error("want OS/ARCH or OS/ARCH/VARIANT")),
        };
        Ok(Self { os_version, os_features, ..platform })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises() {
        for (text, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().map(|p| p.to_string()), Ok(want.to_owned()));
        }
        let windows: Platform = "windows(10.0.17763+win32k)/amd64".parse().expect("it has a version and a feature");
        assert_eq!((&*windows.os_version, &windows.os_features[..]), ("10.0.17763", &["win32k".to_owned()][..]));
        assert_eq!(
            (windows.to_string(), windows.with_os_version()),
            ("windows/amd64".to_owned(), "windows(10.0.17763)/amd64".to_owned())
        );
        for text in ["", "linux/", "a/b/c/d", "foo", "lin ux/amd64", "linux(/amd64", "linux(1!)/amd64", "linux/amd(1)"]
        {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
