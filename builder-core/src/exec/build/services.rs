//! What the steps of a build share and the first that needs it starts: clients, network, agents, certificates.

use std::sync::Arc;

use super::{Build, Fetcher};
use crate::error::{BuildError, During};
use crate::exec::devices::Registry;
use crate::exec::host_files::ExtraHost;
use crate::exec::layers::lock;
use crate::exec::options::SshSource;
use crate::exec::ssh_agent::{AgentSource, HostAgent};
use crate::progress::Event;
use crate::registry::Client;
use crate::sys::network::{NetworkError, PrivateNetwork};
use crate::sys::sandbox::NetworkMode;

impl Build<'_> {
    pub(crate) fn client(&self) -> Result<Arc<Client>, BuildError> {
        if let Some(client) = self.client.get() {
            return Ok(Arc::clone(client));
        }
        let mut options = self.options.registry.clone();
        options.transport.offline |= self.options.offline;
        let client = Client::new(options).during(|| "prepare to reach registries".to_owned())?;
        Ok(Arc::clone(self.client.get_or_init(|| Arc::new(client))))
    }

    pub(crate) fn fetcher(&self) -> Fetcher<'_> {
        Fetcher { store: self.layers.store(), options: self.options }
    }

    /// The network that all commands of the build share, connected or not yet; `None` where they have the host's.
    fn private_network(&self) -> Option<&PrivateNetwork> {
        let network = self.network.get_or_init(|| {
            let path = std::env::join_paths(&self.options.program_path).unwrap_or_default();
            PrivateNetwork::prepare(&path).inspect_err(|error| self.note_host_network(error)).ok()
        });
        network.as_ref().filter(|_| self.network_connected.get() != Some(&false))
    }

    fn note_host_network(&self, error: &NetworkError) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let text = format!("network: the host's, because a private one can't be had ({error}{cause})");
        self.events.event(Event::Note(text));
    }

    /// Connects the network that all commands share, once. Where that fails, they have the host's from then on, and this
    /// gives false.
    pub(crate) fn connect_network(&self) -> bool {
        let Some(network) = self.private_network() else { return false };
        let is_over = || self.check_cancelled().is_err();
        *self.network_connected.get_or_init(|| match network.connect(&is_over) {
            Ok(()) => {
                self.events.event(Event::Note("network: a private one, through pasta".to_owned()));
                true
            }
            Err(NetworkError::GivenUp { .. }) => false,
            Err(error) => {
                self.note_host_network(&error);
                false
            }
        })
    }

    /// The network of commands that don't choose one.
    pub(crate) fn default_network(&self) -> NetworkMode {
        self.private_network().map_or(NetworkMode::Host, PrivateNetwork::mode)
    }

    pub(crate) fn extra_hosts(&self) -> Vec<ExtraHost> {
        self.options
            .extra_hosts
            .iter()
            .filter_map(|(name, address)| Some(ExtraHost { name: name.clone(), address: address.parse().ok()? }))
            .collect()
    }

    /// The devices of this machine that CDI files describe, read when first asked for.
    pub(crate) fn devices(&self) -> &Registry {
        self.devices.get_or_init(|| Registry::read(&self.options.cdi_spec_dirs))
    }

    /// The bundle of certificate authorities that this machine trusts, for images that have none of their own.
    pub(crate) fn host_bundle(&self) -> Option<&[u8]> {
        const BUNDLES: [&str; 4] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        self.host_bundle.get_or_init(|| BUNDLES.iter().find_map(|path| std::fs::read(path).ok())).as_deref()
    }

    pub(crate) fn ssh_agent(&self, id: &str) -> Result<Arc<HostAgent>, BuildError> {
        let mut agents = lock(&self.agents);
        if let Some(agent) = agents.get(id) {
            return Ok(Arc::clone(agent));
        }
        let action = || format!("open the ssh agent `{id}`");
        let source = match &self.options.ssh[id] {
            SshSource::Agent(path) => AgentSource::Socket(path.clone()),
            SshSource::Keys(paths) => AgentSource::from_paths(paths, None).during(action)?,
        };
        let folder = match self.agent_folder.get() {
            Some(folder) => folder,
            None => {
                let folder = self.layers.store().temp_dir("ssh").during(action)?;
                self.agent_folder.get_or_init(|| folder)
            }
        };
        let path = std::env::join_paths(&self.options.program_path).unwrap_or_default();
        let agent = Arc::new(HostAgent::open(&source, folder.path(), &path).during(action)?);
        agents.insert(id.to_owned(), Arc::clone(&agent));
        Ok(agent)
    }

    /// Whether this build has not used a cache mount before: `--no-cache` empties each once.
    pub(crate) fn first_use_of_cache(&self, id: &str) -> bool {
        lock(&self.used_caches).insert(id.to_owned())
    }
}
