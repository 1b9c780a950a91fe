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
//! context  snapshot  layer  registry       where file trees come from, and how they travel
//! image  plan  cache                       configurations and manifests, what to do, what was done
//! exec                                     does it
//! ```

#![warn(missing_docs)]

pub mod oci;
pub mod progress;
pub mod tree;
