//! The members of a tar archive, one after another, as Go's `archive/tar` would give them.
//!
//! Where readers of tar archives disagree about what an archive holds, it is refused rather than read one way. That
//! includes sparse files, global headers that change entries, and malformed extended headers. Extended headers hold for
//! the next member that is none itself. The first end mark ends the archive; what follows is only hashed.

use std::borrow::Cow;

use tar::EntryType;

use super::blob::{Pieces, Slice};
use super::pax::{self, Pax};
use super::{LayerError, Limits};
use crate::tree::{Metadata, Timestamp};

const BLOCK: usize = 512;

/// A member's kind; what others there are is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// What a member's headers say.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) link: Vec<u8>,
    /// The size of the content that follows, in bytes.
    pub(super) size: u64,
    pub(super) device: (u32, u32),
    pub(super) metadata: Metadata,
}

/// Reads members, and the content of the one that was given last.
pub(super) struct Members<'a> {
    pieces: Pieces,
    limits: &'a Limits,
    position: u64,
    members: u64,
    content: u64,
    padding: u64,
}

impl<'a> Members<'a> {
    pub(super) const fn new(pieces: Pieces, limits: &'a Limits) -> Self {
        Self { pieces, limits, position: 0, members: 0, content: 0, padding: 0 }
    }

    /// The next member; `None` at the end. What was not read of the last one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Member>, LayerError> {
        self.skip_content()?;
        let mut extensions = Extensions::default();
        loop {
            let start = self.position;
            let Some(block) = self.block()? else {
                return match extensions.count {
                    0 => Ok(None),
                    _ => Err(refuse_at(start, "the archive ends after an extended header")),
                };
            };
            let header = Header { block: &block };
            let size = header.number(124, 12).filter(|size| *size >= 0).map(i64::cast_unsigned);
            let size = size.ok_or_else(|| refuse_at(start, "its size is no number"))?;
            let kind = EntryType::new(block[156]);
            if !matches!(
                kind,
                EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
            ) {
                return self.member(&header, kind, size, extensions).map(Some);
            }
            extensions.count += 1;
            if extensions.count > self.limits.extensions {
                return Err(LayerError::Limit {
                    what: "extended headers before one entry",
                    limit: self.limits.extensions.into(),
                });
            }
            let bytes = self.extension(size)?;
            match kind {
                EntryType::XHeader => {
                    extensions.pax = pax::parse(&bytes, self.limits).map_err(|reason| refuse_at(start, &reason))?;
                }
                EntryType::XGlobalHeader => {
                    pax::check_global(&bytes).map_err(|reason| refuse_at(start, &reason))?;
                }
                EntryType::GNULongName => extensions.name = Some(up_to_nul(&bytes).to_vec()),
                _ => extensions.link = Some(up_to_nul(&bytes).to_vec()),
            }
        }
    }

    /// More of the content of the member that was given last; `None` at its end.
    pub(super) fn content(&mut self) -> Result<Option<Slice>, LayerError> {
        if self.content == 0 {
            return Ok(None);
        }
        let slice = self.pieces.next_slice(self.content)?;
        if slice.is_empty() {
            return Err(refuse_at(self.position, "the archive ends within a file"));
        }
        self.content -= slice.len() as u64;
        self.position += slice.len() as u64;
        Ok(Some(slice))
    }

    /// Reads what follows the end mark, so that all of the blob is hashed; whether any of it is more than padding.
    pub(super) fn finish(mut self) -> Result<bool, LayerError> {
        let mut trailing = false;
        loop {
            let piece = self.pieces.next(u64::MAX)?;
            if piece.is_empty() {
                return Ok(trailing);
            }
            trailing |= piece.iter().any(|&b| b != 0);
        }
    }

    fn member(
        &mut self,
        header: &Header<'_>,
        kind: EntryType,
        size: u64,
        extensions: Extensions,
    ) -> Result<Member, LayerError> {
        self.members += 1;
        if self.members > self.limits.entries {
            return Err(LayerError::Limit { what: "entries", limit: self.limits.entries });
        }
        let Extensions { pax, name, link, .. } = extensions;
        let name = name.or(pax.path).unwrap_or_else(|| header.name().into_owned());
        let refuse = |reason: &str| refuse(&name, reason);
        let kind = match kind {
            // A trailing slash was all that the oldest archives had to tell a directory.
            EntryType::Regular if header.block[156] == 0 && name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            EntryType::GNUSparse => return Err(refuse("sparse files are not supported in layers")),
            _ => return Err(refuse("its type is unknown")),
        };
        let link = link.or(pax.link).unwrap_or_else(|| up_to_nul(&header.block[157..257]).to_vec());
        if name.len() > self.limits.path_bytes || link.len() > self.limits.path_bytes {
            return Err(LayerError::Limit { what: "bytes in one path", limit: self.limits.path_bytes as u64 });
        }
        let number = |at, length, what: &str| header.number(at, length).ok_or_else(|| refuse(what));
        let id = |at, from_pax: Option<u32>| {
            let from_header = || header.number(at, 8).and_then(|id| u64::try_from(id).ok()).and_then(pax::id);
            from_pax.or_else(from_header).ok_or_else(|| refuse("its owner is out of range"))
        };
        let mut device = (0, 0);
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            let part = |at| header.number(at, 8).and_then(|part| u32::try_from(part).ok());
            device = part(329).zip(part(337)).ok_or_else(|| refuse("its device number is out of range"))?;
        }
        let modified = match pax.modified {
            Some(modified) => modified,
            None => Timestamp::from_seconds(number(136, 12, "its time is no number")?),
        };
        let mode = (number(100, 8, "its mode is no number")? & 0o7777) as u32;
        let metadata = Metadata { mode, uid: id(108, pax.uid)?, gid: id(116, pax.gid)?, modified, xattrs: pax.xattrs };
        // Only files have content; what other members' headers say of a size is no size of anything.
        self.content = if kind == Kind::File { pax.size.unwrap_or(size) } else { 0 };
        self.padding = padding(self.content);
        Ok(Member { kind, link, size: self.content, device, metadata, name })
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        while self.content()?.is_some() {}
        self.skip_padding()
    }

    fn skip_padding(&mut self) -> Result<(), LayerError> {
        let mut bytes = [0; BLOCK];
        let padding = std::mem::take(&mut self.padding) as usize;
        if self.pieces.fill(&mut bytes[..padding])? < padding {
            return Err(refuse_at(self.position, "the archive ends within a file"));
        }
        self.position += padding as u64;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > self.limits.extension_bytes {
            return Err(LayerError::Limit { what: "bytes in an extended header", limit: self.limits.extension_bytes });
        }
        (self.content, self.padding) = (size, padding(size));
        let mut bytes = Vec::new();
        while let Some(slice) = self.content()? {
            bytes.extend_from_slice(&slice);
        }
        self.skip_padding()?;
        Ok(bytes)
    }

    /// The next header block; `None` at the end mark, or where the data ends instead of it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        match self.pieces.fill(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(refuse_at(self.position, "the archive ends within a header")),
        }
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        if !checksum_matches(&block) {
            return Err(refuse_at(self.position, "its header has a wrong checksum"));
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }
}

/// What came before a member.
#[derive(Default)]
struct Extensions {
    count: u32,
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

struct Header<'a> {
    block: &'a [u8; BLOCK],
}

impl Header<'_> {
    fn name(&self) -> Cow<'_, [u8]> {
        let name = up_to_nul(&self.block[..100]);
        // Only the POSIX form has a prefix; star's variant of it keeps two times in the prefix's last bytes.
        let prefix = match &self.block[257..263] {
            b"ustar\0" if &self.block[508..] == b"tar\0" => up_to_nul(&self.block[345..476]),
            b"ustar\0" => up_to_nul(&self.block[345..500]),
            _ => &[],
        };
        if prefix.is_empty() { name.into() } else { [prefix, b"/", name].concat().into() }
    }

    /// A number in octal digits, or in GNU's binary form; `None` for anything else.
    fn number(&self, at: usize, length: usize) -> Option<i64> {
        let field = &self.block[at..at + length];
        if field[0] & 0x80 != 0 {
            let negative = field[0] & 0x40 != 0;
            let first = if negative { i128::from(field[0] | 0x80) - 0x100 } else { i128::from(field[0] & 0x7f) };
            let value = field[1..].iter().fold(first, |value, &byte| value << 8 | i128::from(byte));
            return i64::try_from(value).ok();
        }
        let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
        let text = text.split('\0').next().unwrap_or_default();
        match text {
            "" => Some(0),
            text if text.bytes().all(|b| (b'0'..=b'7').contains(&b)) => i64::from_str_radix(text, 8).ok(),
            _ => None,
        }
    }
}

/// Whether a header block's checksum is right, summed over signed or unsigned bytes as writers differ in that.
pub(super) fn checksum_matches(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(block) else { return false };
    let Some(want) = (Header { block }).number(148, 8) else { return false };
    let bytes = || block.iter().enumerate().map(|(index, &b)| if (148..156).contains(&index) { b' ' } else { b });
    bytes().map(i64::from).sum::<i64>() == want || bytes().map(|b| i64::from(b.cast_signed())).sum::<i64>() == want
}

/// An error about a member whose name is known.
pub(super) fn refuse(name: &[u8], reason: &str) -> LayerError {
    LayerError::Member { member: name.escape_ascii().to_string(), reason: reason.to_owned() }
}

fn refuse_at(position: u64, reason: &str) -> LayerError {
    LayerError::Member { member: format!("at byte {position}"), reason: reason.to_owned() }
}

fn up_to_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

const fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
