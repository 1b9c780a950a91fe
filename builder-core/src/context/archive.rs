//! Reading tar archives: which files are archives, and what their members are.
//!
//! The `tar` crate is used as a codec only. What a member may be is checked here, and nothing is unpacked to disk.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use super::error::ArchiveError;
use super::spool::{Spool, SpoolError, open_content};
use crate::tree::{Content, Metadata, Node, Timestamp, TreePath, Xattrs};

/// No archive may have more members than this.
const MOST_MEMBERS: u64 = 4_000_000;

/// No archive may hold more bytes than this in all of its files.
const MOST_BYTES: u64 = 1 << 40;

/// No header for all members may be larger than this.
const MOST_HEADER_BYTES: u64 = 1 << 20;

/// The one attribute that layers carry.
const CAPABILITY: &[u8] = b"security.capability";

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// zstd (RFC 8878).
    Zstd,
}

impl Compression {
    /// Tells the compression by a stream's first bytes; six are enough.
    #[must_use]
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// One member of an archive.
pub(super) struct Member {
    /// Its name, cleaned; `..` stops at the top.
    pub(super) path: TreePath,
    pub(super) kind: MemberKind,
    pub(super) metadata: Metadata,
    pub(super) content: Content,
}

pub(super) enum MemberKind {
    Node(Node),
    HardLink(TreePath),
}

/// Whether a file is a tar archive with at least one member, plain or compressed. Its name has no part in it.
///
/// # Errors
/// When the file can't be opened.
pub fn is_archive(content: &Content) -> io::Result<bool> {
    let reader = open_content(content)?;
    let Ok(reader) = decompress(reader) else { return Ok(false) };
    let mut archive = tar::Archive::new(reader);
    let Ok(mut entries) = archive.entries() else { return Ok(false) };
    Ok(matches!(entries.next(), Some(Ok(_))))
}

/// Reads members one after the other.
pub(super) fn read_members(
    reader: Box<dyn Read + Send>,
    spool: &mut Spool<'_>,
    mut each: impl FnMut(Member) -> Result<(), MemberError>,
) -> Result<(), MemberError> {
    let damaged = |source| ArchiveError::Read { source };
    let mut archive = tar::Archive::new(decompress(reader).map_err(damaged)?);
    let (mut count, mut bytes) = (0, 0);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        count += 1;
        if count > MOST_MEMBERS {
            return Err(ArchiveError::Limit { what: "members", limit: MOST_MEMBERS }.into());
        }
        let Some(mut member) = read_member(&mut entry)? else { continue };
        if let MemberKind::Node(Node::File { size }) = member.kind {
            bytes += size;
            if bytes > MOST_BYTES {
                return Err(ArchiveError::Limit { what: "bytes", limit: MOST_BYTES }.into());
            }
            member.content = spool.store(&mut entry, size).map_err(|error| match error {
                SpoolError::Read(source) => ArchiveError::Read { source },
                SpoolError::Write(source) => ArchiveError::Store { member: member.path.to_string(), source },
            })?;
        }
        each(member)?;
    }
    Ok(())
}

/// What stops the reading of members.
pub(super) enum MemberError {
    Archive(ArchiveError),
    Copy(super::error::CopyError),
}

impl From<ArchiveError> for MemberError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<super::error::CopyError> for MemberError {
    fn from(error: super::error::CopyError) -> Self {
        Self::Copy(error)
    }
}

impl From<crate::tree::TreeError> for MemberError {
    fn from(error: crate::tree::TreeError) -> Self {
        Self::Copy(error.into())
    }
}

impl MemberError {
    /// Says which archive it was; the root stands for one without a name.
    pub(super) fn of(self, path: &TreePath) -> super::error::CopyError {
        match self {
            Self::Archive(source) if path.is_root() => super::error::CopyError::ArchiveStream(source),
            Self::Archive(source) => {
                super::error::CopyError::Archive { path: path.to_string()[1..].to_owned(), source }
            }
            Self::Copy(error) => error,
        }
    }
}

fn decompress(reader: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let mut start = [0; 6];
    let mut length = 0;
    while length < start.len() {
        match reader.read(&mut start[length..])? {
            0 => break,
            count => length += count,
        }
    }
    let compression = Compression::detect(&start[..length]);
    let whole = io::Cursor::new(start).take(length as u64).chain(reader);
    let whole = BufReader::with_capacity(64 * 1024, whole);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(whole, true)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
    })
}

/// Fields of a PAX header that replace those of the plain one.
#[derive(Default)]
struct Extensions {
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Timestamp>,
    xattrs: Xattrs,
}

fn read_member<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Option<Member>, ArchiveError> {
    let damaged = |source| ArchiveError::Read { source };
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let refuse = |reason: String| ArchiveError::Member { member: name.clone(), reason };
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return check_global_header(entry).map(|()| None).map_err(refuse);
    }
    let extensions = read_extensions(entry).map_err(&refuse)?;
    let path = TreePath::clean(&entry.path_bytes());
    let link = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
    let header = entry.header();
    let device = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default).map_err(damaged);
    let node = match kind {
        // An old header without a type is a directory when its name says so.
        tar::EntryType::Regular | tar::EntryType::Continuous if name.ends_with('/') => directory(),
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            MemberKind::Node(Node::File { size: entry.size() })
        }
        tar::EntryType::Directory => directory(),
        tar::EntryType::Symlink => MemberKind::Node(Node::Symlink { target: link }),
        tar::EntryType::Link => MemberKind::HardLink(TreePath::clean(&link)),
        tar::EntryType::Fifo => MemberKind::Node(Node::Fifo),
        tar::EntryType::Char => MemberKind::Node(Node::CharDevice {
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
        }),
        tar::EntryType::Block => MemberKind::Node(Node::BlockDevice {
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
        }),
        other => return Err(refuse(format!("its type is {:#04x}", other.as_byte()))),
    };
    let owner = |extended: Option<u64>, plain: io::Result<u64>| {
        let id = extended.map_or(plain, Ok).map_err(damaged)?;
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| refuse(format!("its owner is {id}")))
    };
    let modified = match extensions.modified {
        Some(time) => time,
        None => Timestamp::from_seconds(i64::try_from(header.mtime().map_err(damaged)?).unwrap_or(0)),
    };
    let mode = match node {
        // Linux has no other mode for links.
        MemberKind::Node(Node::Symlink { .. }) => 0o777,
        _ => header.mode().map_err(damaged)? & 0o7777,
    };
    let metadata = Metadata {
        mode,
        uid: owner(extensions.uid, header.uid())?,
        gid: owner(extensions.gid, header.gid())?,
        modified,
        xattrs: extensions.xattrs,
    };
    Ok(Some(Member { path, kind: node, metadata, content: Content::None }))
}

const fn directory() -> MemberKind {
    MemberKind::Node(Node::Directory { opaque: false })
}

/// Refuses a header for all members that would change what they are. Tools that are common write comments only.
fn check_global_header<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<(), String> {
    if entry.size() > MOST_HEADER_BYTES {
        return Err(format!("it is a global header of more than {MOST_HEADER_BYTES} bytes"));
    }
    let unreadable = |error: io::Error| format!("it is a damaged global header: {error}");
    let Some(records) = entry.pax_extensions().map_err(unreadable)? else { return Ok(()) };
    for record in records {
        let record = record.map_err(unreadable)?;
        if let key @ ("path" | "linkpath" | "size" | "uid" | "gid") = record.key().unwrap_or("path") {
            return Err(format!("it sets `{key}` for all members"));
        }
    }
    Ok(())
}

/// Whether the kernel would take this as a file's capabilities (`struct vfs_cap_data` and its later forms).
fn is_capability(value: &[u8]) -> bool {
    matches!((value.get(3), value.len()), (Some(1), 12) | (Some(2), 20) | (Some(3), 24))
}

fn read_extensions<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Extensions, String> {
    let mut extensions = Extensions::default();
    let unreadable = |error: io::Error| format!("its extended header is damaged: {error}");
    let Some(records) = entry.pax_extensions().map_err(unreadable)? else { return Ok(extensions) };
    for record in records {
        let record = record.map_err(unreadable)?;
        let value = record.value_bytes();
        let number = || {
            std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| "bad number".to_owned())
        };
        match record.key_bytes() {
            b"uid" => extensions.uid = Some(number()?),
            b"gid" => extensions.gid = Some(number()?),
            b"mtime" => extensions.modified = Some(parse_time(value).ok_or("its time is no number")?),
            key if key.starts_with(b"GNU.sparse.") => return Err("it is a sparse file in the PAX format".to_owned()),
            key => {
                // COMPAT(buildkit): other attributes are never written to a layer.
                if key.strip_prefix(b"SCHILY.xattr.") == Some(CAPABILITY) {
                    if !is_capability(value) {
                        return Err("its `security.capability` is malformed".to_owned());
                    }
                    extensions.xattrs = BTreeMap::from([(CAPABILITY.to_vec(), value.to_vec())]);
                }
            }
        }
    }
    Ok(extensions)
}

/// Reads decimal seconds with an optional fraction.
fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (true, 1..) => Timestamp { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds },
        _ => Timestamp { seconds, nanoseconds },
    })
}
