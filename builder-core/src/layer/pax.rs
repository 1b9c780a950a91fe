//! PAX extended headers: records of `<length> <key>=<value>\n`. A record that breaks the form is refused, never skipped.

use std::collections::BTreeMap;

use super::Limits;
use crate::tree::{Timestamp, Xattrs};

/// What extended headers say about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) modified: Option<Timestamp>,
    pub(super) xattrs: Xattrs,
}

/// Reads the records before an entry.
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Pax, String> {
    let mut pax = Pax::default();
    for (key, value) in records(bytes)? {
        let text = std::str::from_utf8(&value).ok();
        let bad = || format!("its extended header has a wrong `{}`", key.escape_default());
        match key.as_str() {
            "path" | "linkpath" if value.is_empty() || value.contains(&0) => return Err(bad()),
            "path" => pax.path = Some(value),
            "linkpath" => pax.link = Some(value),
            "size" => pax.size = Some(text.and_then(digits).ok_or_else(bad)?),
            "uid" => pax.uid = Some(text.and_then(digits).and_then(id).ok_or_else(bad)?),
            "gid" => pax.gid = Some(text.and_then(digits).and_then(id).ok_or_else(bad)?),
            "mtime" => pax.modified = Some(text.and_then(time).ok_or_else(bad)?),
            key if key.starts_with("GNU.sparse.") => return Err("sparse files are not supported in layers".to_owned()),
            key => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    add_xattr(&mut pax.xattrs, name.as_bytes(), value, limits)?;
                }
            }
        }
    }
    Ok(pax)
}

/// Reads records that are to hold for all entries after them: only such are taken that change nothing.
pub(super) fn check_global(bytes: &[u8]) -> Result<(), String> {
    let changes = |key: &str| {
        let keys = ["path", "linkpath", "size", "uid", "gid", "mtime", "uname", "gname"];
        keys.contains(&key) || key.starts_with("SCHILY.") || key.starts_with("GNU.sparse.")
    };
    match records(bytes)?.keys().find(|key| changes(key)) {
        Some(key) => Err(format!("its global header sets `{}` for all entries", key.escape_default())),
        None => Ok(()),
    }
}

fn records(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut found = BTreeMap::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, value, left) = record(rest).ok_or("its extended header is malformed")?;
        if found.insert(key.to_owned(), value.to_vec()).is_some() {
            return Err(format!("its extended header has `{}` twice", key.escape_default()));
        }
        rest = left;
    }
    Ok(found)
}

fn record(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|&b| b == b' ')?;
    let length = digits(std::str::from_utf8(&bytes[..space]).ok()?)?;
    let (record, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    let key = std::str::from_utf8(&record[..equals]).ok()?;
    (!key.is_empty() && !key.contains('\0')).then_some((key, &record[equals + 1..], rest))
}

/// Keeps an attribute that a layer may carry, and drops those that only mean something to the host.
fn add_xattr(xattrs: &mut Xattrs, name: &[u8], value: Vec<u8>, limits: &Limits) -> Result<(), String> {
    if !is_kept(name) {
        return Ok(());
    }
    if name.len() > 255 || value.len() > limits.xattr_bytes || xattrs.len() >= limits.xattrs {
        return Err("it has too many or too large extended attributes".to_owned());
    }
    if name == b"security.capability" && !matches!(value.len(), 12 | 20 | 24) {
        return Err("its `security.capability` has a wrong size".to_owned());
    }
    xattrs.insert(name.to_vec(), value);
    Ok(())
}

/// Whether a layer may carry an attribute: capabilities, and users' own ones but for those that steer overlayfs and
/// rootless tools.
pub(super) fn is_kept(name: &[u8]) -> bool {
    const STEERING: [&[u8]; 3] = [b"user.overlay.", b"user.containers.", b"user.rootlesscontainers"];
    name == b"security.capability"
        || name.starts_with(b"user.") && !STEERING.iter().any(|prefix| name.starts_with(prefix))
}

fn digits(text: &str) -> Option<u64> {
    // The standard parser would take a sign too.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An id that a file can have: the largest number means "none" to the kernel.
pub(super) fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

/// A time of decimal digits, with a sign and a fraction where needed; rounded down to nanoseconds.
fn time(text: &str) -> Option<Timestamp> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = i64::try_from(digits(whole)?).ok()?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp::from_seconds(-seconds),
        (true, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Pax, String> {
        parse(text.as_bytes(), &Limits::default())
    }

    /// A record with the right length.
    fn record(text: &str) -> String {
        let rest = text.len() + 2;
        let length = (rest + 1..).find(|length| *length == rest + length.to_string().len()).unwrap();
        format!("{length} {text}\n")
    }

    #[test]
    fn well_formed() {
        let texts = ["path=a", "uid=300", "mtime=-1.500000", "comment=", "SCHILY.xattr.user.a=b\nc=\0d", "size=0"];
        let pax = parsed(&texts.map(record).concat()).unwrap();
        assert_eq!((pax.path.as_deref(), pax.uid, pax.size), (Some(b"a".as_slice()), Some(300), Some(0)));
        assert_eq!(pax.modified, Some(Timestamp { seconds: -2, nanoseconds: 500_000_000 }));
        assert_eq!(pax.xattrs.get(b"user.a".as_slice()).map(Vec::as_slice), Some(b"b\nc=\0d".as_slice()));
    }

    #[test]
    fn malformed() {
        for text in
            ["x", "9 path=a", "11 path=a\n", "8 path=a\n", "9 patha\n\n", "4 =a\n", "+9 path=a\n", "9 path=a\nrest"]
        {
            assert!(parsed(text).is_err(), "{text:?}");
        }
        assert!(parsed("99999999999 path=a\n").is_err() && parsed("18446744073709551616 path=a\n").is_err());
        assert!(parse(b"7 \xff\xfe=a\n", &Limits::default()).is_err());
        for text in [
            "path=",
            "path=a\0",
            "size=-1",
            "size=18446744073709551616",
            "uid=4294967296",
            "uid=4294967295",
            "mtime=x",
            "mtime=9223372036854775808",
            "GNU.sparse.major=1",
            "SCHILY.xattr.security.capability=short",
        ] {
            assert!(parsed(&record(text)).is_err(), "{text:?}");
        }
        assert!(parsed(&record("path=a").repeat(2)).is_err());
    }

    #[test]
    fn attributes_of_the_host_are_dropped() {
        for (name, kept) in [
            ("user.mine", true),
            ("security.capability", true),
            ("security.selinux", false),
            ("security.ima", false),
            ("trusted.overlay.opaque", false),
            ("user.overlay.opaque", false),
            ("user.overlay.overlay.opaque", false),
            ("user.containers.override_stat", false),
            ("user.rootlesscontainers", false),
            ("system.posix_acl_access", false),
        ] {
            assert_eq!(is_kept(name.as_bytes()), kept, "{name}");
        }
    }

    #[test]
    fn global_headers_may_comment_only() {
        assert_eq!(check_global(record("comment=ab").as_bytes()), Ok(()));
        for text in ["path=a", "size=1", "uid=0", "SCHILY.xattr.user.a=b"] {
            assert!(check_global(record(text).as_bytes()).is_err(), "{text}");
        }
    }
}
