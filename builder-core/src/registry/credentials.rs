//! Where credentials come from: the caller, Docker's `config.json`, and its helper programs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use docker_credential::DockerCredential;
use serde::Deserialize;
use serde_json::Value;

use super::transport::excerpt;
use super::{Credential, Secret};

/// The name under which Docker keeps the credentials of Docker Hub.
const HUB_SERVER: &str = "https://index.docker.io/v1/";
const CONFIG_SIZE_MAX: u64 = 4 * 1024 * 1024;
const HELPER_OUTPUT_MAX: u64 = 64 * 1024;
const PIECE: Duration = Duration::from_millis(10);

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Credentials by registry, as written in image names (`docker.io`, `localhost:5000`). They come first.
    pub fixed: BTreeMap<String, Credential>,
    /// Docker's configuration.
    pub docker: Option<DockerConfig>,
}

/// Docker's configuration of credentials.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The folder with `config.json` (`DOCKER_CONFIG`, or `.docker` in the home folder).
    pub directory: PathBuf,
    /// Where the helper programs `docker-credential-*` are found, as in `PATH`. Relative parts are left out.
    pub search_path: OsString,
    /// How long a helper program may take.
    pub helper_timeout: Duration,
}

/// Credentials could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file could not be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what Docker writes.
    #[error("`{}` is not a configuration of Docker: {reason}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The name of a helper program could be something else.
    #[error("`{name}` is not the name of a credential helper")]
    HelperName {
        /// The name.
        name: String,
    },
    /// The helper program is not there.
    #[error("the credential helper `{program}` is not in the search path")]
    HelperMissing {
        /// The program.
        program: String,
    },
    /// The helper program could not be run.
    #[error("cannot run the credential helper `{program}`")]
    HelperRun {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The helper program failed, took too long or answered nonsense.
    #[error("the credential helper `{program}` {reason}")]
    Helper {
        /// The program.
        program: String,
        /// What happened.
        reason: String,
    },
}

impl Credentials {
    /// Finds the credential for a registry as written in image names; `None` for anonymous access.
    ///
    /// # Errors
    ///
    /// A missing `config.json` is no error; an unreadable one and a failing helper are.
    pub fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(credential) = self.fixed.get(registry) {
            return Ok(Some(credential.clone()));
        }
        match &self.docker {
            Some(docker) => docker.find(registry),
            None => Ok(None),
        }
    }
}

impl DockerConfig {
    fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let path = self.directory.join("config.json");
        let Some(mut config) = read_config(&path)? else { return Ok(None) };
        let server = if registry == crate::reference::DEFAULT_REGISTRY { HUB_SERVER } else { registry };
        let helpers = config.remove("credHelpers");
        let store = config.remove("credsStore");
        let named = [registry, server].into_iter().find_map(|key| helpers.as_ref()?.get(key)?.as_str());
        if let Some(name) = named.filter(|name| !name.is_empty()) {
            return self.ask(name, server);
        }
        let json = Value::Object(config).to_string();
        let found = docker_credential::get_credential_from_reader(json.as_bytes(), server);
        match found {
            Ok(credential) => Ok(usable(credential)),
            Err(docker_credential::CredentialRetrievalError::NoCredentialConfigured) => {
                match store.as_ref().and_then(Value::as_str).filter(|name| !name.is_empty()) {
                    Some(name) => self.ask(name, server),
                    None => Ok(None),
                }
            }
            Err(error) => Err(CredentialError::Content { path, reason: excerpt(&error.to_string()).to_lowercase() }),
        }
    }

    /// Asks a helper program (`docker-credential-NAME get`).
    fn ask(&self, name: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
        if name.starts_with('.') || name.len() > 100 || !name.bytes().all(plain) {
            return Err(CredentialError::HelperName { name: excerpt(name) });
        }
        let program = format!("docker-credential-{name}");
        let path = env::split_paths(&self.search_path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(&program))
            .find(|path| path.is_file());
        let Some(path) = path else { return Err(CredentialError::HelperMissing { program }) };
        let (success, output) = run(&path, &program, server, self.helper_timeout)?;
        let failed = |reason: String| CredentialError::Helper { program: program.clone(), reason };
        let text = String::from_utf8_lossy(&output);
        if !success {
            // Helpers say "credentials not found in native keychain" where there are none.
            return if text.contains("credentials not found") {
                Ok(None)
            } else {
                Err(failed(format!("failed: {}", excerpt(&text))))
            };
        }
        let answer: HelperAnswer =
            serde_json::from_slice(&output).map_err(|_| failed("answered with something else than JSON".to_owned()))?;
        let credential = if answer.username == "<token>" {
            DockerCredential::IdentityToken(answer.secret)
        } else {
            DockerCredential::UsernamePassword(answer.username, answer.secret)
        };
        Ok(usable(credential))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

fn usable(credential: DockerCredential) -> Option<Credential> {
    match credential {
        DockerCredential::IdentityToken(token) if token.is_empty() => None,
        DockerCredential::IdentityToken(token) => Some(Credential::IdentityToken(Secret::new(token))),
        DockerCredential::UsernamePassword(user, password) if user.is_empty() && password.is_empty() => None,
        DockerCredential::UsernamePassword(user, password) => {
            // Docker pads the decoded text with NUL bytes.
            let password = Secret::new(password.trim_end_matches('\0'));
            Some(Credential::Password { user, password })
        }
    }
}

fn read_config(path: &Path) -> Result<Option<serde_json::Map<String, Value>>, CredentialError> {
    let read_error = |source| CredentialError::Read { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file.take(CONFIG_SIZE_MAX),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_error(error)),
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(read_error)?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(mut config)) => {
            drop_empty_identity_tokens(&mut config);
            Ok(Some(config))
        }
        Ok(_) => Err(CredentialError::Content { path: path.to_owned(), reason: "it is no JSON object".to_owned() }),
        Err(error) => {
            let reason = format!("line {}, column {} is not JSON", error.line(), error.column());
            Err(CredentialError::Content { path: path.to_owned(), reason })
        }
    }
}

/// Some tools write empty properties where they mean none.
fn drop_empty_identity_tokens(config: &mut serde_json::Map<String, Value>) {
    let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) else { return };
    for entry in auths.values_mut().filter_map(Value::as_object_mut) {
        entry.retain(|_, value| value.as_str() != Some(""));
    }
}

/// Runs a helper with bounded time and output.
fn run(path: &Path, program: &str, server: &str, timeout: Duration) -> Result<(bool, Vec<u8>), CredentialError> {
    let run_error = |source| CredentialError::HelperRun { program: program.to_owned(), source };
    let mut child = Command::new(path)
        .arg("get")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(run_error)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says so by its answer.
        let _ = writeln!(stdin, "{server}");
    }
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut output = Vec::new();
            let read = stdout.take(HELPER_OUTPUT_MAX + 1).read_to_end(&mut output);
            let _ = sender.send(read.map(|_| output));
        });
    }
    let ended = |reason: &str| CredentialError::Helper { program: program.to_owned(), reason: reason.to_owned() };
    let deadline = Instant::now() + timeout;
    let output = match receiver.recv_timeout(timeout) {
        Ok(output) => output.map_err(run_error)?,
        Err(_) => {
            stop(&mut child);
            return Err(ended("did not answer in time"));
        }
    };
    if output.len() as u64 > HELPER_OUTPUT_MAX {
        stop(&mut child);
        return Err(ended("answered with too much"));
    }
    loop {
        if let Some(status) = child.try_wait().map_err(run_error)? {
            return Ok((status.success(), output));
        }
        if Instant::now() >= deadline {
            stop(&mut child);
            return Err(ended("did not end in time"));
        }
        thread::sleep(PIECE);
    }
}

fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests;
