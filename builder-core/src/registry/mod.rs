//! A client for registries (OCI distribution spec 1.1).
//!
//! ```text
//! Client      resolve, manifest, blob, has_blob, push_blob, push_manifest     client manifest blob upload
//!   pull_*    index -> manifest -> configuration -> layers into a BlobSink     pull
//!   push_*    layers and configuration -> manifests -> index from a BlobSource push
//! auth        challenges, tokens, whom credentials are told                    auth challenge domain
//! transport   connections, redirects, repeated attempts                       transport/
//! ```
//!
//! What comes from a registry is not trusted: sizes are bounded, every blob and manifest is checked against its digest
//! and size, credentials go nowhere but where they belong, and a registry's words are escaped before they are shown.
//! Nothing falls back from `https` to `http`.

mod auth;
mod blob;
mod challenge;
mod client;
mod credentials;
mod document;
mod domain;
mod error;
mod manifest;
mod pull;
mod push;
mod response;
mod secret;
mod told;
pub mod transport;
mod upload;

pub use blob::BlobReader;
pub use client::{Client, Options};
pub use credentials::{CredentialError, Credentials, DockerConfig};
pub use document::{Index, Manifest};
pub use error::{Action, RegistryError, RegistryErrorKind};
pub use manifest::MANIFEST_SIZE_MAX;
pub use pull::{BlobSink, PullOptions, PulledImage, pull_image};
pub use push::{BlobSource, PushOptions, push_image};
pub use secret::{Credential, Secret};
pub use upload::Pushed;
