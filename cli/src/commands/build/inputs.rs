//! The context and the Dockerfile, as far as they must be read before the build: standard input, and a Dockerfile
//! outside of the context.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rbuild_core::exec::{ContextInput, DockerfileInput};
use rbuild_core::store::{Store, TempDir};

use crate::error::{Failure, Kind};
use crate::output::Source;
use crate::settings::{BuildSettings, Context, DockerfileFrom, Environment};

/// The largest Dockerfile that is read, in bytes.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// Both inputs of a build.
pub(super) struct Inputs {
    pub(super) context: ContextInput,
    pub(super) dockerfile: DockerfileInput,
    /// Holds what came from standard input while the build lasts.
    _spooled: Option<TempDir>,
}

impl Inputs {
    /// The Dockerfile as far as messages about it need it; the build reads it by itself.
    pub(super) fn source(&self) -> Option<Source> {
        match (&self.dockerfile, &self.context) {
            (DockerfileInput::Text { name, text, .. }, _) => Some(Source::new(name, text)),
            (DockerfileInput::InContext(None), ContextInput::Directory(folder)) => ["Dockerfile", "dockerfile"]
                .iter()
                .find_map(|name| Some(Source::new(name, &fs::read_to_string(folder.join(name)).ok()?))),
            (DockerfileInput::InContext(_), _) => None,
        }
    }
}

/// Reads what the settings name.
pub(super) fn read(settings: &BuildSettings, store: &Store, environment: &Environment) -> Result<Inputs, Failure> {
    let (context, spooled, from_stdin) = match &settings.context {
        Context::Directory(path) => (ContextInput::Directory(path.clone()), None, None),
        Context::Git(url) | Context::Http(url) => (ContextInput::Remote(url.clone()), None, None),
        Context::Stdin => match spool_stdin(store)? {
            Spooled::Archive(folder, path) => (ContextInput::Archive(path), Some(folder), None),
            Spooled::Dockerfile(text) => (ContextInput::Empty, None, Some(text)),
        },
    };
    let local = matches!(context, ContextInput::Directory(_));
    let dockerfile = match (&settings.dockerfile, from_stdin) {
        (_, Some(text)) => text_of_stdin(text)?,
        (DockerfileFrom::Default, None) => DockerfileInput::InContext(None),
        (DockerfileFrom::Stdin, None) => text_of_stdin(read_limited(io::stdin().lock(), "standard input")?)?,
        (DockerfileFrom::Path(path), None) if local => file(path, environment)?,
        (DockerfileFrom::Path(path), None) => DockerfileInput::InContext(Some(path.to_string_lossy().into_owned())),
        (DockerfileFrom::Url(url), None) => {
            return Err(Failure::new(
                Kind::Usage,
                format!("cannot read the Dockerfile `{url}`: URLs are not supported here"),
            )
            .hint("download it and give the file, or use the URL as the build context"));
        }
    };
    Ok(Inputs { context, dockerfile, _spooled: spooled })
}

enum Spooled {
    Archive(TempDir, PathBuf),
    Dockerfile(Vec<u8>),
}

/// Keeps standard input in a file where it is an archive; a Dockerfile is small enough for memory.
fn spool_stdin(store: &Store) -> Result<Spooled, Failure> {
    let failed =
        |error: io::Error| Failure::caused(Kind::Build, "cannot read the build context from standard input", &error);
    let mut stdin = io::stdin().lock();
    let mut start = Vec::new();
    stdin.by_ref().take(1024).read_to_end(&mut start).map_err(failed)?;
    if !is_archive(&start) {
        let mut rest = read_limited(stdin, "standard input")?;
        start.append(&mut rest);
        return Ok(Spooled::Dockerfile(start));
    }
    let folder = store.temp_dir("context").map_err(|error| Failure::of(Kind::Environment, &error))?;
    let path = folder.path().join("context.tar");
    let mut copy = || -> io::Result<()> {
        let mut file = File::create(&path)?;
        file.write_all(&start)?;
        io::copy(&mut stdin, &mut file).map(drop)
    };
    copy().map_err(failed)?;
    Ok(Spooled::Archive(folder, path))
}

/// Whether a stream that begins like this is a tar archive, compressed or not.
fn is_archive(start: &[u8]) -> bool {
    const MAGICS: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGICS.iter().any(|magic| start.starts_with(magic)) || start.get(257..262) == Some(b"ustar")
}

fn text_of_stdin(bytes: Vec<u8>) -> Result<DockerfileInput, Failure> {
    let name = "Dockerfile on standard input".to_owned();
    Ok(DockerfileInput::Text { text: text(bytes, &name)?, name, ignore: None })
}

fn file(path: &Path, environment: &Environment) -> Result<DockerfileInput, Failure> {
    let name = path.strip_prefix(&environment.current_dir).unwrap_or(path).display().to_string();
    let failed = |error: io::Error| {
        let kind = if error.kind() == io::ErrorKind::NotFound { Kind::Usage } else { Kind::Build };
        Failure::caused(kind, format!("cannot read the Dockerfile `{name}`"), &error).hint(near(path))
    };
    let bytes = read_limited(File::open(path).map_err(failed)?, &name)?;
    let mut ignore_path = path.as_os_str().to_owned();
    ignore_path.push(".dockerignore");
    let ignore = match fs::read(&ignore_path) {
        Ok(bytes) => Some((format!("{name}.dockerignore"), bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::caused(Kind::Build, format!("cannot read `{name}.dockerignore`"), &error)),
    };
    Ok(DockerfileInput::Text { text: text(bytes, &name)?, name, ignore })
}

/// Names the Dockerfiles beside a path where there is none; empty when there are none at all.
fn near(path: &Path) -> String {
    let entries = path.parent().and_then(|folder| fs::read_dir(folder).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let name = name.to_lowercase();
            (name.contains("dockerfile") || name.contains("containerfile")) && !name.ends_with(".dockerignore")
        })
        .collect();
    names.sort();
    names.truncate(5);
    if names.is_empty() { String::new() } else { format!("beside it there is `{}`", names.join("`, `")) }
}

fn read_limited(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = from.take(DOCKERFILE_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::caused(Kind::Build, format!("cannot read the Dockerfile `{name}`"), &error))?;
    if bytes.len() as u64 > DOCKERFILE_LIMIT {
        return Err(Failure::new(
            Kind::Build,
            format!("the Dockerfile `{name}` is larger than {} MiB", DOCKERFILE_LIMIT >> 20),
        ));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>, name: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        Failure::caused(Kind::Build, format!("the Dockerfile `{name}` is not UTF-8"), &error.utf8_error())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_start() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
        assert!(is_archive(b"\x1f\x8b\x08"));
        assert!(is_archive(b"\x28\xb5\x2f\xfd\0"));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(b""));
    }

    #[test]
    fn dockerfiles_nearby_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["Dockerfile.dev", "Containerfile", "Dockerfile.dev.dockerignore", "notes"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let hint = near(&folder.path().join("Dockerfile"));
        assert_eq!(hint, "beside it there is `Containerfile`, `Dockerfile.dev`");
        assert_eq!(near(Path::new("/nowhere/at/all")), "");
    }
}
