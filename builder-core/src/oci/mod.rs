//! The nouns of the OCI image specification: digests, descriptors, platforms and image configurations.
//!
//! Pure data: nothing here does input or output.

mod config;
mod descriptor;
mod digest;
mod platform;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::{Descriptor, media_type};
pub use digest::{BlockHasher, BlockState, ChainId, DiffId, Digest, DigestError, Hasher};
pub use platform::{Platform, PlatformError};
