//! Layers: changes to a tree as a tar stream, and back.
//!
//! Writing is a pure function of the changes: the same changes give the same bytes for every thread count, file
//! system, umask and privilege. Reading trusts nothing: names, sizes and links of an archive are checked before
//! anything is made of them, and limits bound what it may cost.
//!
//! ```text
//! [Change] --archive--> tar --chunks--> compressed members --> out      encode
//!                        '-- SHA-256: diff ID       '-- SHA-256: digest
//! blob --decompress--> tar --members--> LayerState --> Tree             read
//!             '-- SHA-256: diff ID    |       '--> DiskWriter --> folder in overlayfs lower-directory form
//!                                     '--> contents of files, in several threads --^
//! ```
//!
//! OCI image spec, "Image Layer Filesystem Changeset".

mod ahead;
mod archive;
mod blob;
mod border;
mod chunk_memory;
mod compression;
mod content;
mod dense;
mod disk;
mod encode;
mod error;
mod files;
mod first_pass;
mod gzip;
mod hashers;
mod header;
mod limits;
mod member;
mod pax;
mod pipeline;
mod prefix;
mod read;
mod state;
mod unpack;
mod worker;

pub(crate) use archive::{estimate, recorded};
pub use chunk_memory::{ChunkMemory, ChunkRecord};
pub use compression::{Compression, CompressionError};
pub use encode::{ENCODER_VERSION, EncodeOptions, EncodedLayer, encode, encode_with, is_large};
pub use error::LayerError;
pub use first_pass::FirstPass;
pub use limits::Limits;
pub use prefix::Prefix;
pub use read::{ReadLayer, read_layer};
pub use unpack::unpack_changes;

/// What the name of a whiteout begins with (OCI image spec, "Whiteouts").
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The name of the mark that makes its directory opaque.
pub const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
