//! Turns a Dockerfile, or a plan made in Rust, into an OCI image.
//!
//! The crate has no globals, reads no environment, prints nothing, never exits the process and needs no
//! async runtime. Progress is a stream of typed [`progress::Event`]s.
//!
//! Modules, lowest first (a module uses only modules above its own line):
//!
//! ```text
//! oci  reference  sys  progress            nouns of the specifications, kernel calls, events
//! rootfs  tree  store                      paths inside untrusted trees, file trees as data, blobs on disk
//! context  snapshot  layer  registry  remote   where file trees come from, and how they travel
//! image  plan  cache                       configurations and manifests, what to do, what was done
//! exec                                     does it
//! ```

#![warn(missing_docs)]

pub mod cache;
pub mod context;
pub mod error;
pub mod exec;
pub mod image;
pub mod layer;
pub mod oci;
pub mod plan;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod remote;
pub mod rootfs;
pub mod snapshot;
pub mod store;
pub mod sys;
pub mod tree;
