//! The header of one tar member: a ustar block, with PAX records before it where ustar can't say it.
//!
//! Records come in the order `path`, `linkpath`, `size`, `uid`, `gid`, `mtime`, then `SCHILY.xattr.*` by name, of the attributes that a layer may carry. Times are
//! whole seconds, rounded down (as Go's writer does it for layers); there are no user and group names.

use std::io::Write as _;

use tar::{EntryType, Header};

use super::pax::is_kept;
use crate::tree::Metadata;

const BLOCK: usize = 512;
/// The largest user or group id of a ustar header.
const LARGEST_ID: u32 = 0o777_7777;
/// The largest size and time of a ustar header.
const LARGEST_NUMBER: u64 = 0o777_7777_7777;
const NAME_SIZE: usize = 100;
const PREFIX_SIZE: usize = 155;
/// The largest device number of a ustar header.
pub(super) const LARGEST_DEVICE: u32 = 0o777_7777;

/// What a member's header says.
pub(super) struct Member<'a> {
    /// The name, with a slash at the end for a directory.
    pub(super) name: &'a [u8],
    pub(super) kind: EntryType,
    /// The target of a symbolic or hard link.
    pub(super) link: &'a [u8],
    pub(super) size: u64,
    pub(super) device: Option<(u32, u32)>,
    pub(super) metadata: &'a Metadata,
}

/// Appends a member's header blocks.
pub(super) fn write_header(out: &mut Vec<u8>, member: &Member<'_>) {
    let mut header = Header::new_ustar();
    let mut records = Vec::new();
    let Metadata { mode, uid, gid, modified, xattrs } = member.metadata;
    if !set_name(&mut header, member.name) {
        record(&mut records, b"path", member.name);
    }
    let linkname = &mut header.as_ustar_mut().expect("it was made as ustar").linkname;
    if member.link.len() <= NAME_SIZE && member.link.is_ascii() {
        linkname[..member.link.len()].copy_from_slice(member.link);
    } else {
        record(&mut records, b"linkpath", member.link);
    }
    header.set_entry_type(member.kind);
    header.set_mode(mode & 0o7777);
    header.set_size(if member.size <= LARGEST_NUMBER { member.size } else { 0 });
    if member.size > LARGEST_NUMBER {
        record(&mut records, b"size", member.size.to_string().as_bytes());
    }
    header.set_uid(if *uid <= LARGEST_ID { (*uid).into() } else { 0 });
    header.set_gid(if *gid <= LARGEST_ID { (*gid).into() } else { 0 });
    for (key, id) in [(b"uid", uid), (b"gid", gid)] {
        if *id > LARGEST_ID {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(modified.seconds).ok().filter(|seconds| *seconds <= LARGEST_NUMBER);
    header.set_mtime(seconds.unwrap_or(0));
    if seconds.is_none() {
        record(&mut records, b"mtime", modified.seconds.to_string().as_bytes());
    }
    for (name, value) in xattrs.iter().filter(|(name, _)| is_kept(name)) {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    let (major, minor) = member.device.unwrap_or_default();
    let device = "the header is ustar, and has device numbers";
    header.set_device_major(major).expect(device);
    header.set_device_minor(minor).expect(device);
    header.set_cksum();
    if !records.is_empty() {
        write_records(out, &records);
    }
    out.extend_from_slice(header.as_bytes());
}

/// Fills up to a whole block.
fn pad(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding(size), 0);
}

/// How many bytes are missing to a whole block.
pub(super) const fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// The two empty blocks that end an archive.
pub(super) fn write_end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

/// Puts the name into the header; false where it needs a PAX record.
fn set_name(header: &mut Header, name: &[u8]) -> bool {
    let ustar = header.as_ustar_mut().expect("it was made as ustar");
    let fits = name.is_ascii() && name.len() <= NAME_SIZE;
    let split = if fits || !name.is_ascii() { None } else { split_at(name) };
    if let Some(slash) = split {
        ustar.prefix[..slash].copy_from_slice(&name[..slash]);
        ustar.name[..name.len() - slash - 1].copy_from_slice(&name[slash + 1..]);
        return true;
    }
    let length = name.len().min(NAME_SIZE);
    ustar.name[..length].copy_from_slice(&name[..length]);
    fits
}

/// The last slash that leaves both a prefix and a name that fit.
fn split_at(name: &[u8]) -> Option<usize> {
    let last = (name.len() - 1).min(PREFIX_SIZE + 1);
    let slash = name[..last].iter().rposition(|&b| b == b'/')?;
    (slash > 0 && name.len() - slash - 1 <= NAME_SIZE).then_some(slash)
}

fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // A record begins with its own length, whose digits count too.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    write!(records, "{length} ").expect("writing to memory does not fail");
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn write_records(out: &mut Vec<u8>, records: &[u8]) {
    let mut header = Header::new_ustar();
    let name = b"PaxHeaders";
    header.as_ustar_mut().expect("it was made as ustar").name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(records);
    pad(out, records.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lengths_count_themselves() {
        for (value, want) in
            [("", "5 k=\n"), ("1234", "9 k=1234\n"), ("12345", "11 k=12345\n"), ("123456", "12 k=123456\n")]
        {
            let mut records = Vec::new();
            record(&mut records, b"k", value.as_bytes());
            assert_eq!(String::from_utf8(records).unwrap(), want);
        }
        let mut records = Vec::new();
        record(&mut records, b"k", &[b'x'; 93]);
        assert!(records.starts_with(b"99 k=") && records.len() == 99);
        records.clear();
        record(&mut records, b"k", &[b'x'; 94]);
        assert!(records.starts_with(b"101 k=") && records.len() == 101);
    }

    #[test]
    fn long_names_are_split_only_where_both_parts_fit() {
        let name = |first: usize, second: usize| [vec![b'p'; first], b"/".to_vec(), vec![b'n'; second]].concat();
        for (name, want) in [
            (name(155, 100), Some(155)),
            (name(156, 50), None),
            (name(50, 101), None),
            (name(100, 1), Some(100)),
            ([name(60, 60), b"/".to_vec()].concat(), Some(60)),
            (name(0, 100), None),
        ] {
            assert_eq!(split_at(&name), want, "{}", String::from_utf8_lossy(&name));
        }
    }
}
