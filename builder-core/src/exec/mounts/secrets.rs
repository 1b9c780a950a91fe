//! Mounts of what must stay out of the image: secrets and ssh agents.

use std::path::Path;
use std::sync::Arc;

use rbuild_dockerfile::mount::Mount as PlannedMount;

use super::{Wanted, absolute};
use crate::error::{BuildError, During};
use crate::exec::options::Secret;
use crate::exec::run::Keep;
use crate::exec::ssh_agent::SocketOwner;
use crate::exec::stage::StageRun;
use crate::plan::Run;
use crate::snapshot::MountKind;
use crate::sys::sandbox::MountSource;

/// The largest secret: bytes.
const SECRET_LIMIT: u64 = 500 << 10;

impl StageRun<'_, '_> {
    pub(super) fn secret(
        &self,
        run: &Run,
        mount: &PlannedMount,
        environment: &mut Vec<(String, String)>,
    ) -> Result<Option<Wanted>, BuildError> {
        let id = mount.effective_id();
        let Some(secret) = self.build.options.secrets.get(&id) else {
            if mount.required {
                return Err(BuildError::failed(format!("mount the secret `{id}`"), "it is required and was not given")
                    .with_help(format!("hand it over with --secret id={id},src=FILE")));
            }
            if let Some(name) = &mount.env {
                environment.retain(|(n, _)| n != name);
                environment.push((name.clone(), String::new()));
            }
            return Ok(None);
        };
        let bytes = read_secret(&id, secret)?;
        if let Some(name) = &mount.env {
            let text = String::from_utf8(bytes.clone()).map_err(|_| {
                BuildError::failed(format!("set `{name}` to the secret `{id}`"), "it is no valid text (UTF-8)")
            })?;
            environment.retain(|(n, _)| n != name);
            environment.push((name.clone(), text));
        }
        let Some(target) = mount.secret_target() else { return Ok(None) };
        let (mode, uid, gid) = (mount.mode.unwrap_or(0o400), mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        Ok(Some(Wanted {
            target: absolute(run, &target),
            source: MountSource::SecretFile { bytes, mode, uid, gid },
            read_only: true,
            kind: MountKind::File,
        }))
    }

    pub(super) fn ssh(
        &self,
        run: &Run,
        mount: &PlannedMount,
        environment: &mut Vec<(String, String)>,
        work: &Path,
        keep: &mut Keep,
    ) -> Result<Option<Wanted>, BuildError> {
        let id = mount.effective_id();
        if !self.build.options.ssh.contains_key(&id) {
            if mount.required {
                return Err(BuildError::failed(
                    format!("mount the ssh agent `{id}`"),
                    "it is required and was not given",
                )
                .with_help(format!("hand it over with --ssh {id}")));
            }
            return Ok(None);
        }
        let action = || format!("forward the ssh agent `{id}`");
        let agent = self.build.ssh_agent(&id)?;
        let owner =
            SocketOwner { uid: mount.uid.unwrap_or(0), gid: mount.gid.unwrap_or(0), mode: mount.mode.unwrap_or(0o600) };
        let socket = agent.forward(work, owner).during(action)?;
        let number = environment.iter().filter(|(name, _)| name == "SSH_AUTH_SOCK").count();
        let target =
            if mount.target.is_empty() { format!("/run/buildkit/ssh_agent.{number}") } else { mount.target.clone() };
        let target = absolute(run, &target);
        if number == 0 {
            environment.push(("SSH_AUTH_SOCK".to_owned(), format!("/{}", String::from_utf8_lossy(target.as_bytes()))));
        }
        let source = MountSource::Socket(socket.path().to_owned());
        keep.push(Arc::new(socket));
        Ok(Some(Wanted { target, source, read_only: true, kind: MountKind::File }))
    }
}

fn read_secret(id: &str, secret: &Secret) -> Result<Vec<u8>, BuildError> {
    let action = || format!("read the secret `{id}`");
    let bytes = match secret {
        Secret::Bytes(bytes) => bytes.to_vec(),
        Secret::File(path) => {
            std::fs::read(path).during(|| format!("read the secret `{id}` from `{}`", path.display()))?
        }
    };
    if bytes.len() as u64 > SECRET_LIMIT {
        return Err(BuildError::failed(action(), format!("it is larger than {SECRET_LIMIT} bytes")));
    }
    Ok(bytes)
}
