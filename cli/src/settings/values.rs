//! Flag values with a form of their own: secrets, SSH, hosts, limits, sizes, networks.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Environment, UsageError, absolute, csv};

/// A secret by its identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    /// The name that RUN mounts ask for.
    pub(crate) id: String,
    /// Where its value is.
    pub(crate) from: SecretFrom,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretFrom {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
}

/// Reads `--secret id=ID[,src=FILE][,env=VAR][,type=file|env]`.
///
/// # Errors
/// No identifier, an unknown key or type.
pub(crate) fn secret(value: &str, environment: &Environment) -> Result<Secret, UsageError> {
    const FLAG: &str = "--secret";
    let wrong =
        |reason: &str| UsageError::value(FLAG, value, reason).hint("write `id=ID,src=FILE` or `id=ID,env=VARIABLE`");
    let (mut id, mut file, mut variable, mut kind) = (String::new(), None, None, None);
    for (key, text) in csv::pairs(FLAG, value)? {
        match key.as_str() {
            "id" => id = text,
            "src" | "source" => file = Some(text),
            "env" => variable = Some(text),
            "type" if text == "file" || text == "env" => kind = Some(text),
            "type" => return Err(wrong(&format!("unknown type `{text}`"))),
            _ => return Err(wrong(&format!("unknown key `{key}`"))),
        }
    }
    if id.is_empty() {
        return Err(wrong("`id=` is missing"));
    }
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = file.take();
    }
    let is_variable = |name: &str| environment.exact(name).is_some();
    let from = match (variable, file) {
        (Some(name), _) => SecretFrom::Variable(name),
        (None, Some(path)) => SecretFrom::File(absolute(path.as_ref(), environment)),
        // Neither is said: the identifier names a variable, or else a file.
        (None, None) if kind.as_deref() != Some("file") && is_variable(&id) => SecretFrom::Variable(id.clone()),
        (None, None) => SecretFrom::File(absolute(id.as_ref(), environment)),
    };
    Ok(Secret { id, from })
}

/// An SSH agent, or keys, by its identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshForward {
    /// The name that RUN mounts ask for.
    pub(crate) id: String,
    /// An agent's socket, or key files.
    pub(crate) paths: Vec<PathBuf>,
}

/// Reads `--ssh default` or `--ssh ID=SOCKET|KEY[,KEY]`; nothing after the identifier means the user's agent.
///
/// # Errors
/// No identifier, or no agent to hand on.
pub(crate) fn ssh(value: &str, environment: &Environment) -> Result<SshForward, UsageError> {
    const FLAG: &str = "--ssh";
    let (id, paths) = value.split_once('=').unwrap_or((value, ""));
    if id.is_empty() {
        return Err(UsageError::value(FLAG, value, "the identifier is missing").hint("write `default` or `ID=SOCKET`"));
    }
    let mut paths: Vec<_> =
        paths.split(',').filter(|path| !path.is_empty()).map(|path| absolute(path.as_ref(), environment)).collect();
    if paths.is_empty() {
        let agent = environment.os("SSH_AUTH_SOCK").ok_or_else(|| {
            UsageError::value(FLAG, value, "SSH_AUTH_SOCK is not set, so there is no agent to hand on")
                .hint(format!("start `ssh-agent`, or name a socket: `--ssh {id}=SOCKET`"))
        })?;
        paths.push(PathBuf::from(agent));
    }
    Ok(SshForward { id: id.to_owned(), paths })
}

/// A further line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEntry {
    /// The host's name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: HostName,
}

/// The address of a [`HostEntry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostName {
    /// An address.
    Address(IpAddr),
    /// The machine that builds.
    HostGateway,
}

/// Reads one value of `--add-host`: `NAME:IP`, `NAME=IP` or `NAME:host-gateway`, several separated by commas.
///
/// # Errors
/// A missing separator, or what follows it is no address.
pub(crate) fn add_host(value: &str) -> Result<Vec<HostEntry>, UsageError> {
    const FLAG: &str = "--add-host";
    let wrong =
        |reason: &str| UsageError::value(FLAG, value, reason).hint("write `NAME:IP`, `NAME=IP` or `NAME:host-gateway`");
    csv::fields(FLAG, value)?
        .iter()
        .map(|field| {
            let (name, address) = field
                .split_once('=')
                .or_else(|| field.split_once(':'))
                .ok_or_else(|| wrong(&format!("`{field}` has no address")))?;
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(wrong("the host's name is missing"));
            }
            let bare = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
            let address = match bare {
                "host-gateway" => HostName::HostGateway,
                _ => HostName::Address(bare.parse().map_err(|_| wrong(&format!("`{address}` is no IP address")))?),
            };
            Ok(HostEntry { name: name.to_owned(), address })
        })
        .collect()
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ulimit {
    /// Its name, as `nofile`.
    pub(crate) name: String,
    /// The limit that a process may raise; -1 for none.
    pub(crate) soft: i64,
    /// The limit that it may not; -1 for none.
    pub(crate) hard: i64,
}

/// Reads `--ulimit NAME=SOFT[:HARD]`.
///
/// # Errors
/// An unknown name, no number, a soft limit above the hard one.
pub(crate) fn ulimit(value: &str) -> Result<Ulimit, UsageError> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let wrong = |reason: &str| UsageError::value("--ulimit", value, reason).hint("write `NAME=SOFT[:HARD]`");
    let (name, limits) = value.split_once('=').ok_or_else(|| wrong("`=` is missing"))?;
    if !NAMES.contains(&name) {
        return Err(wrong(&format!("there is no limit `{name}`")).hint(format!("limits are {}", NAMES.join(", "))));
    }
    let number = |text: &str| match text.parse::<i64>() {
        Ok(number) if number >= -1 => Ok(number),
        _ => Err(wrong(&format!("`{text}` is no number"))),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    let without_limit = |limit: i64| if limit < 0 { i64::MAX } else { limit };
    if without_limit(soft) > without_limit(hard) {
        return Err(wrong("the soft limit is above the hard one"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// Reads a size as Docker writes it: `64m`, `1.5g`, `1024`.
///
/// # Errors
/// No number, or an unknown unit.
pub(crate) fn size_bytes(flag: &'static str, value: &str) -> Result<u64, UsageError> {
    let wrong = || UsageError::value(flag, value, "expected a size like `64m` or `1g`");
    let lower = value.trim().to_ascii_lowercase();
    let digits = lower.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    match number.parse::<f64>() {
        // A fraction of a byte has no meaning, so it is cut off.
        Ok(part) if part.is_finite() => Ok((part * unit as f64) as u64),
        _ => Err(wrong()),
    }
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Network {
    /// A network of its own with a way out, or the host's where that is not to be had.
    #[default]
    Default,
    /// The host's.
    Host,
    /// None.
    None,
}

/// Reads a value of `--network`.
///
/// # Errors
/// Anything but the three modes; other builders' networks of their own do not exist here.
pub(crate) fn network(value: &str) -> Result<Network, UsageError> {
    match value {
        "" | "default" => Ok(Network::Default),
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        _ => Err(UsageError::value("--network", value, "expected default, host or none")),
    }
}

/// How commands are kept apart from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Isolation {
    /// The strongest that this machine has.
    #[default]
    Auto,
    /// A change of root alone: no security boundary.
    Chroot,
}

/// Reads a value of `--isolation`.
///
/// # Errors
/// An unknown kind.
pub(crate) fn isolation(value: Option<&str>) -> Result<Isolation, UsageError> {
    match value {
        None | Some("" | "auto" | "default") => Ok(Isolation::Auto),
        Some("chroot") => Ok(Isolation::Chroot),
        Some(other) => Err(UsageError::value("--isolation", other, "expected auto or chroot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found() {
        let environment = Environment::of(&[("TOKEN", "x"), ("EMPTY", "")]);
        let file = |path: &str| SecretFrom::File(path.into());
        let variable = |name: &str| SecretFrom::Variable(name.to_owned());
        for (value, id, from) in [
            ("id=a,src=f", "a", file("/work/f")),
            ("id=a,source=/f", "a", file("/f")),
            ("id=a,env=V", "a", variable("V")),
            ("id=a,type=env,src=V", "a", variable("V")),
            ("id=TOKEN", "TOKEN", variable("TOKEN")),
            ("id=EMPTY", "EMPTY", variable("EMPTY")),
            ("id=TOKEN,type=file", "TOKEN", file("/work/TOKEN")),
            ("id=other", "other", file("/work/other")),
            ("\"id=a\",\"src=/with,comma\"", "a", file("/with,comma")),
        ] {
            assert_eq!(secret(value, &environment).unwrap(), Secret { id: id.to_owned(), from }, "{value}");
        }
        for value in ["src=f", "id=a,kind=b", "id=a,type=vault", "id", "id="] {
            assert!(secret(value, &environment).is_err(), "{value}");
        }
    }

    #[test]
    fn ssh_names_an_agent_or_keys() {
        let environment = Environment::of(&[("SSH_AUTH_SOCK", "/agent")]);
        let paths = |value| ssh(value, &environment).unwrap().paths;
        assert_eq!(paths("default"), [PathBuf::from("/agent")]);
        assert_eq!(paths("git=/a,/b"), [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(ssh("default", &Environment::of(&[])).is_err());
        assert!(ssh("=x", &environment).is_err());
    }

    #[test]
    fn hosts_are_read() {
        for (value, name, address) in [
            ("a:10.0.0.1", "a", "10.0.0.1"),
            ("a=10.0.0.1", "a", "10.0.0.1"),
            ("a:::1", "a", "::1"),
            ("a=[::1]", "a", "::1"),
        ] {
            let want = HostEntry { name: name.to_owned(), address: HostName::Address(address.parse().unwrap()) };
            assert_eq!(add_host(value).unwrap(), [want], "{value}");
        }
        assert_eq!(add_host("a:host-gateway").unwrap()[0].address, HostName::HostGateway);
        assert_eq!(add_host("a:10.0.0.1,b:10.0.0.2").unwrap().len(), 2);
        for value in ["a", ":10.0.0.1", "a:b", "a:", "a b:10.0.0.1"] {
            assert!(add_host(value).is_err(), "{value}");
        }
    }

    #[test]
    fn limits_are_read() {
        let limit = |value| ulimit(value).map(|limit| (limit.soft, limit.hard)).ok();
        assert_eq!(limit("nofile=1024:2048"), Some((1024, 2048)));
        assert_eq!(limit("nofile=1024"), Some((1024, 1024)));
        assert_eq!(limit("core=-1"), Some((-1, -1)));
        assert_eq!(limit("nofile=10:5"), None);
        assert_eq!(limit("nofile=-1:5"), None);
        assert_eq!(limit("files=10"), None);
        assert_eq!(limit("nofile"), None);
        assert_eq!(limit("nofile=many"), None);
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("64m", 64 << 20), ("1g", 1 << 30), ("1.5k", 1536), ("12", 12), ("2KiB", 2048), ("3b", 3)]
        {
            assert_eq!(size_bytes("--shm-size", text).unwrap(), bytes, "{text}");
        }
        for text in ["", "m", "1x", "-1", "1.2.3"] {
            assert!(size_bytes("--shm-size", text).is_err(), "{text}");
        }
    }
}
