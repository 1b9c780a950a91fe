use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::Duration;

use rbuild_core::oci::{Descriptor, Digest, media_type};
use rbuild_core::reference::Reference;
use rbuild_core::registry::transport::TransportOptions;
use rbuild_core::registry::{
    BlobSink, BlobSource, Client, Credential, Credentials, Options, RegistryError, RegistryErrorKind, Secret,
};

use crate::common::registry::Registry;

pub fn patient() -> TransportOptions {
    TransportOptions { first_pause: Duration::from_millis(1), ..TransportOptions::default() }
}

pub fn anonymous() -> Client {
    Client::new(Options { transport: patient(), ..Options::default() }).unwrap()
}

pub fn client_with(host: &str, credential: Credential) -> Client {
    let fixed = BTreeMap::from([(host.to_owned(), credential)]);
    let credentials = Credentials { fixed, docker: None };
    Client::new(Options { transport: patient(), credentials, ..Options::default() }).unwrap()
}

pub fn password(user: &str, password: &str) -> Credential {
    Credential::Password { user: user.to_owned(), password: Secret::new(password) }
}

pub fn reference(registry: &Registry, rest: &str) -> Reference {
    Reference::parse(&format!("{}/{rest}", registry.server.host())).unwrap()
}

pub fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::LAYER, Digest::of(bytes), bytes.len() as u64)
}

/// Bytes that no two places share.
pub fn noise(count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub fn read(client: &Client, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let read = client.blob(reference, descriptor)?.read_to_end(&mut bytes);
    read.map_err(|error| error.downcast::<RegistryError>().unwrap())?;
    Ok(bytes)
}

pub fn kind<T>(result: Result<T, RegistryError>) -> RegistryErrorKind {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => *error.kind,
    }
}

/// Blobs in memory.
#[derive(Default)]
pub struct Memory {
    pub blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
    pub pulled_with: Option<Reference>,
}

impl Memory {
    pub fn of(blobs: &[&[u8]]) -> Self {
        let blobs = blobs.iter().map(|bytes| (Digest::of(bytes), bytes.to_vec())).collect();
        Self { blobs: Mutex::new(blobs), pulled_with: None }
    }
}

impl BlobSink for Memory {
    fn has(&self, descriptor: &Descriptor) -> bool {
        self.blobs.lock().unwrap().contains_key(&descriptor.digest)
    }

    fn write(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        self.blobs.lock().unwrap().insert(descriptor.digest, bytes);
        Ok(())
    }
}

impl BlobSource for Memory {
    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + '_>> {
        let found = self.blobs.lock().unwrap().get(&descriptor.digest).cloned();
        found.map(|bytes| Box::new(io::Cursor::new(bytes)) as _).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn pulled_with(&self, _: &Digest) -> Option<Reference> {
        self.pulled_with.clone()
    }
}
