//! Images: manifests, layouts, archives, and what is made of a finished build.
//!
//! ```text
//! annotation what a user adds to manifests and indexes
//! manifest   documents: manifests and indexes, read strictly, and choosing one for a platform
//! assemble   configuration + layers -> manifest in the store; manifests -> index
//! stored     an image in the store, read whole
//! layout     an OCI layout elsewhere (`oci-layout://`), in a folder or a tar file, as a source of images
//! archive    an image as an archive or folder: `type=oci`, `type=docker`
//! rootfs     an image's file tree as a tar stream: `type=tar`
//! local      an image's file tree in a folder: `type=local`
//! output     files for users, complete or not there at all
//! inspect    facts for people
//! ```
//!
//! Everything written is a pure function of what goes in: sorted keys, sorted entries, no clock, no names of users.

mod annotation;
mod archive;
mod assemble;
mod error;
mod inspect;
mod layout;
mod local;
mod manifest;
mod output;
mod rootfs;
mod stored;

pub use annotation::{Annotation, AnnotationLevel, annotations_of};
pub use archive::{ArchiveFormat, ArchiveOptions, export_archive, export_folder, write_archive};
pub use assemble::{AssembleOptions, MediaTypes, assemble, assemble_index};
pub use error::ImageError;
pub use inspect::{HistoryLine, ImageDetails, LayerDetails, history, inspect};
pub use layout::{LayoutAddress, LayoutImage, LayoutReader, LayoutSource, Member};
pub use local::{LocalMode, LocalOptions, LocalReport, export_local};
pub use manifest::{
    DOCUMENT_LIMIT, Document, Index, Manifest, is_attestation, read_document, read_index, read_manifest,
    resolve_manifest, select_platform,
};
pub use output::OutputFile;
pub use rootfs::{export_rootfs_tar, write_rootfs_tar};
pub use stored::{Image, load_image, load_images};
