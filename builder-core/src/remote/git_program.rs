//! Runs the git program with nothing of the user's configuration.
//!
//! The environment is empty but for what is listed here, and the only configuration is a file of ours: no hooks, no
//! file-system monitor, no credential helpers, no filters, no prompts, no transports but those asked for. Secrets are in
//! that file, in a folder that only its owner can enter, and never in an argument, an address or the repository.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::git_checkout::GitError;
use super::{GitScheme, GitSource};
use crate::registry::Secret;
use crate::registry::transport::{Cancelled, Proxies, excerpt};

const STDOUT_MAX: u64 = 16 * 1024 * 1024;
const STDERR_MAX: u64 = 64 * 1024;
const PIECE: Duration = Duration::from_millis(5);

/// How repositories are fetched.
#[derive(Debug, Clone)]
pub struct GitOptions {
    /// Where programs (git, ssh) are found, as in `PATH`.
    pub search_path: OsString,
    /// The socket of an ssh agent. The user's key files are not used.
    pub ssh_auth_socket: Option<PathBuf>,
    /// A file of known ssh hosts.
    pub known_hosts: Option<PathBuf>,
    /// What happens with ssh hosts that the file does not know. One that it knows otherwise is always refused.
    pub host_keys: HostKeys,
    /// Proves who asks, for `http` and `https`.
    pub authorization: Option<GitAuthorization>,
    /// PEM texts of certificate authorities that are trusted besides the system's.
    pub certificate_authorities: Vec<Vec<u8>>,
    /// The proxies.
    pub proxies: Proxies,
    /// How long one command of git may take.
    pub timeout: Duration,
    /// Ends the work.
    pub cancelled: Cancelled,
    /// Whether `.git` stays; what the source says comes first. Only for a checkout of the whole repository.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched; what the source says comes first.
    pub submodules: bool,
}

impl Default for GitOptions {
    fn default() -> Self {
        Self {
            search_path: "/usr/local/bin:/usr/bin:/bin".into(),
            ssh_auth_socket: None,
            known_hosts: None,
            host_keys: HostKeys::AcceptNew,
            authorization: None,
            certificate_authorities: Vec::new(),
            proxies: Proxies::default(),
            timeout: Duration::from_secs(30 * 60),
            cancelled: Cancelled::default(),
            keep_git_dir: false,
            submodules: true,
        }
    }
}

/// What happens with ssh hosts that are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeys {
    /// They are accepted for the one time.
    AcceptNew,
    /// They are refused.
    Known,
}

/// Proves to a server who asks.
#[derive(Debug, Clone)]
pub enum GitAuthorization {
    /// A token, as `GIT_AUTH_TOKEN` has it: sent as the password of `x-access-token`.
    Token(Secret),
    /// The value of an `Authorization` header, as `GIT_AUTH_HEADER` has it.
    Header(Secret),
}

/// The git program, set up for one source.
pub(super) struct Git<'a> {
    options: &'a GitOptions,
    /// A folder of ours: configuration, home, certificates.
    folder: &'a Path,
    remote: &'a str,
    environment: Vec<(&'static str, OsString)>,
}

impl<'a> Git<'a> {
    pub(super) fn new(source: &'a GitSource, options: &'a GitOptions, folder: &'a Path) -> Result<Self, GitError> {
        let home = folder.join("home");
        let write = |name: &str, bytes: &[u8]| -> Result<PathBuf, GitError> {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|source| GitError::Write { path: path.clone(), source })?;
            Ok(path)
        };
        std::fs::create_dir(&home).map_err(|source| GitError::Write { path: home.clone(), source })?;
        let mut environment: Vec<(&'static str, OsString)> = vec![
            ("PATH", options.search_path.clone()),
            ("HOME", home.into_os_string()),
            ("LC_ALL", "C".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_ATTR_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_ALLOW_PROTOCOL", allowed_protocols(source.scheme).into()),
            ("GIT_SSH_COMMAND", ssh_command(options).into()),
            ("GIT_SSH_VARIANT", "ssh".into()),
        ];
        environment.push(("GIT_CONFIG_GLOBAL", write("config", config(source, options)?.as_bytes())?.into()));
        if !options.certificate_authorities.is_empty() {
            let path = write("authorities.pem", &authorities(&options.certificate_authorities))?;
            environment.push(("GIT_SSL_CAINFO", path.into()));
        }
        if let Some(socket) = &options.ssh_auth_socket {
            environment.push(("SSH_AUTH_SOCK", socket.clone().into()));
        }
        let proxies = [("http_proxy", &options.proxies.http), ("https_proxy", &options.proxies.https)];
        for (name, proxy) in proxies {
            if let Some(proxy) = proxy {
                environment.push((name, proxy.expose().into()));
            }
        }
        environment.push(("no_proxy", options.proxies.no_proxy.clone().into()));
        Ok(Self { options, folder, remote: &source.remote, environment })
    }

    /// Runs git in a folder and gives what it wrote.
    pub(super) fn run<S: AsRef<OsStr>>(&self, folder: &Path, arguments: &[S]) -> Result<Vec<u8>, GitError> {
        let verb = arguments.first().map(|verb| verb.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        let start = |source| GitError::Start { source };
        let mut child = Command::new("git")
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Git starts programs of its own; all of them end together.
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let stdout = child.stdout.take().map(|pipe| thread::spawn(move || drain(pipe, STDOUT_MAX)));
        let stderr = child.stderr.take().map(|pipe| thread::spawn(move || drain(pipe, STDERR_MAX)));
        let ended = self.wait(&mut child, &verb);
        if ended.is_err() {
            end_group(&mut child);
        }
        let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        if ended? {
            return Ok(stdout);
        }
        let message = self.redacted(&String::from_utf8_lossy(&stderr));
        Err(GitError::Failed { verb, remote: self.remote.to_owned(), message })
    }

    fn wait(&self, child: &mut Child, verb: &str) -> Result<bool, GitError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some(status) = child.try_wait().map_err(|source| GitError::Start { source })? {
                return Ok(status.success());
            }
            if self.options.cancelled.is_cancelled() {
                return Err(GitError::Cancelled);
            }
            if Instant::now() >= deadline {
                return Err(GitError::Timeout { verb: verb.to_owned(), remote: self.remote.to_owned() });
            }
            thread::sleep(PIECE);
        }
    }

    /// Git's own words, on one line, without paths of ours.
    fn redacted(&self, text: &str) -> String {
        excerpt(&text.replace(&*self.folder.to_string_lossy(), ""))
    }
}

/// Reads to the end and keeps the first bytes, so that the writer never waits.
fn drain(mut pipe: impl Read, max: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    // A pipe that breaks ends the output; how the program ended is told by its status.
    let _ = pipe.by_ref().take(max).read_to_end(&mut kept);
    let _ = io::copy(&mut pipe, &mut io::sink());
    kept
}

fn end_group(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // The group is gone when all of its programs are.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

/// What a repository and its submodules may be reached by. What is not encrypted only where the user wrote it so.
fn allowed_protocols(scheme: GitScheme) -> &'static str {
    match scheme {
        GitScheme::Https | GitScheme::Ssh => "https:ssh",
        GitScheme::Http => "https:ssh:http",
        GitScheme::Git => "https:ssh:git",
        GitScheme::File => "https:ssh:file",
    }
}

fn ssh_command(options: &GitOptions) -> String {
    let checking = match options.host_keys {
        HostKeys::AcceptNew => "accept-new",
        HostKeys::Known => "yes",
    };
    let known = match &options.known_hosts {
        Some(path) => quoted_for_shell(&format!("-oGlobalKnownHostsFile={}", quoted_for_ssh(path))),
        None => "-oGlobalKnownHostsFile=/dev/null".to_owned(),
    };
    format!(
        "ssh -F /dev/null -oBatchMode=yes -oStrictHostKeyChecking={checking} -oUserKnownHostsFile=/dev/null {known} \
         -oIdentityFile=none -oForwardAgent=no -oClearAllForwardings=yes -oConnectTimeout=30 -oServerAliveInterval=15"
    )
}

fn quoted_for_ssh(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn quoted_for_shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The only configuration that git sees.
fn config(source: &GitSource, options: &GitOptions) -> Result<String, GitError> {
    let mut text = String::from(
        "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tattributesFile = /dev/null\n\texcludesFile = /dev/null\n\
         \tautocrlf = false\n\teol = lf\n\tsymlinks = true\n\tfileMode = true\n\tprotectHFS = true\n\tprotectNTFS = true\n\
         [init]\n\tdefaultBranch = main\n\ttemplateDir =\n\
         [credential]\n\thelper =\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n\
         [fetch]\n\trecurseSubmodules = false\n[submodule]\n\trecurse = false\n\
         [advice]\n\tdetachedHead = false\n\
         [http]\n\tlowSpeedLimit = 1000\n\tlowSpeedTime = 60\n",
    );
    let header = match (&options.authorization, &source.credentials) {
        (Some(GitAuthorization::Header(header)), _) => Some(header.expose().to_owned()),
        (Some(GitAuthorization::Token(token)), _) => Some(basic("x-access-token", token)),
        (None, Some((user, password))) => Some(basic(user, password)),
        (None, None) => None,
    };
    if let Some(header) = header.filter(|_| matches!(source.scheme, GitScheme::Http | GitScheme::Https)) {
        if header.contains(['\n', '\r', '\0']) {
            return Err(GitError::Authorization);
        }
        let (scope, value) = (quoted(header_scope(&source.remote)), quoted(&format!("Authorization: {header}")));
        let _ = write!(text, "[http {scope}]\n\textraHeader = {value}\n");
    }
    Ok(text)
}

/// What credentials are for: the repository, and for GitHub all of its repositories, because submodules need them.
fn header_scope(remote: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"].into_iter().find(|all| remote.starts_with(all)).unwrap_or(remote)
}

fn basic(user: &str, password: &Secret) -> String {
    format!("basic {}", STANDARD.encode(format!("{user}:{}", password.expose())))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The system's certificate authorities and the additional ones, because git takes one file alone.
fn authorities(additional: &[Vec<u8>]) -> Vec<u8> {
    let mut bundle = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        bundle.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            bundle.extend(line.iter().map(|b| char::from(*b)));
            bundle.push('\n');
        }
        bundle.push_str("-----END CERTIFICATE-----\n");
    }
    let mut bundle = bundle.into_bytes();
    for pem in additional {
        bundle.extend_from_slice(pem);
        bundle.push(b'\n');
    }
    bundle
}
