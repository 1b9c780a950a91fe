//! Extended attributes: which are kept, and what overlayfs says in them.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::tree::Xattrs;

const CAPABILITY: &[u8] = b"security.capability";
const OPAQUE: &[u8] = b"user.overlay.opaque";
const WHITEOUT: &[u8] = b"user.overlay.whiteout";
const REDIRECT: &[u8] = b"user.overlay.redirect";
const METACOPY: &[u8] = b"user.overlay.metacopy";
/// What the kernel allows for a list of names, and for one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const GREATEST_LENGTH: usize = 64 * 1024;

/// What overlayfs, mounted with `userxattr`, has noted on a file of an upper or lower directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OverlayMarks {
    /// A directory that hides what is below it.
    pub opaque: bool,
    /// An empty file that stands for a removed name.
    pub whiteout: bool,
    /// A directory whose lower part is elsewhere, or a file whose data is: rbuild never mounts so that they are made.
    pub redirected: bool,
}

/// Whether an attribute is part of an image.
///
/// COMPAT(buildkit): its layers carry file capabilities alone. Others (`user.*`, ACLs, security labels) belong to the
/// file system that a tree happens to be on.
#[must_use]
pub fn is_kept_xattr(name: &[u8]) -> bool {
    name == CAPABILITY
}

/// Brings a `security.capability` value to the form that means the same everywhere.
///
/// In a user namespace the kernel stores the namespace's root with it (version 3). Where that is id 0, the value
/// becomes the version 2 one that a build by root gives.
#[must_use]
pub fn portable_capability(mut value: Vec<u8>) -> Vec<u8> {
    const VERSION_3_LENGTH: usize = 24;
    if value.len() == VERSION_3_LENGTH && value[3] == 3 && value[20..24] == [0; 4] {
        value[3] = 2;
        value.truncate(20);
    }
    value
}

/// Reads what is kept of the attributes of `name` in a directory, and overlayfs's marks. Follows no link.
pub(super) fn read_xattrs(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<(Xattrs, OverlayMarks)> {
    let source = Source::new(directory, name);
    let mut xattrs = Xattrs::new();
    let mut marks = OverlayMarks::default();
    for attribute in source.list()?.split(|&b| b == 0) {
        match attribute {
            // The value `x` says only that there are whiteouts of the attribute kind inside.
            OPAQUE => marks.opaque = source.value(attribute)?.is_some_and(|value| value == b"y"),
            WHITEOUT => marks.whiteout = true,
            REDIRECT | METACOPY => marks.redirected = true,
            CAPABILITY => {
                if let Some(value) = source.value(attribute)? {
                    xattrs.insert(attribute.to_vec(), portable_capability(value));
                }
            }
            _ => {}
        }
    }
    Ok((xattrs, marks))
}

/// A file by its directory and name. There is no system call of that shape before Linux 6.13, but a path through the
/// directory's own entry in `/proc` does the same, without opening the file.
struct Source<'fd> {
    directory: BorrowedFd<'fd>,
    name: Vec<u8>,
    path: Vec<u8>,
}

impl<'fd> Source<'fd> {
    fn new(directory: BorrowedFd<'fd>, name: &[u8]) -> Self {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        Self { directory, name: name.to_vec(), path }
    }

    fn list(&self) -> rustix::io::Result<Vec<u8>> {
        self.sized(|path, buffer| rustix::fs::llistxattr(path, buffer), |fd, buffer| rustix::fs::flistxattr(fd, buffer))
            .map(Option::unwrap_or_default)
    }

    fn value(&self, attribute: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
        self.sized(
            |path, buffer| rustix::fs::lgetxattr(path, attribute, buffer),
            |fd, buffer| rustix::fs::fgetxattr(fd, attribute, buffer),
        )
    }

    fn sized(
        &self,
        by_path: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
        by_file: impl Fn(BorrowedFd<'_>, &mut [u8]) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<Option<Vec<u8>>> {
        let read = |buffer: &mut [u8]| match by_path(&self.path, buffer) {
            // Without `/proc`, or a file that is gone: opening it tells which.
            Err(Errno::NOENT) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(self.directory, self.name.as_slice(), flags, Mode::empty())?;
                by_file(std::os::fd::AsFd::as_fd(&file), buffer)
            }
            result => result,
        };
        let mut small = [0; 512];
        match read(&mut small) {
            Ok(length) => Ok(Some(small[..length].to_vec())),
            Err(Errno::RANGE) => {
                let mut large = vec![0; GREATEST_LENGTH];
                let length = read(&mut large)?;
                large.truncate(length);
                Ok(Some(large))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Sets an attribute on `name` in a directory (`.` for itself). Follows no link.
pub(crate) fn set_xattr(
    directory: BorrowedFd<'_>,
    name: &[u8],
    attribute: &[u8],
    value: &[u8],
) -> rustix::io::Result<()> {
    let source = Source::new(directory, name);
    rustix::fs::lsetxattr(source.path.as_slice(), attribute, value, rustix::fs::XattrFlags::empty())
}

/// The flags of a look at a name itself.
pub(super) const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capabilities_are_kept() {
        for (name, kept) in [
            ("security.capability", true),
            ("user.overlay.opaque", false),
            ("user.comment", false),
            ("trusted.overlay.opaque", false),
            ("system.posix_acl_access", false),
            ("security.selinux", false),
        ] {
            assert_eq!(is_kept_xattr(name.as_bytes()), kept, "{name}");
        }
    }

    #[test]
    fn capabilities_lose_the_namespace() {
        let version_2 = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        let mut version_3 = version_2.clone();
        version_3[3] = 3;
        version_3.extend([0; 4]);
        assert_eq!(portable_capability(version_3.clone()), version_2);
        version_3[20] = 7;
        assert_eq!(portable_capability(version_3.clone()), version_3, "another root id is kept");
        assert_eq!(portable_capability(version_2.clone()), version_2);
    }
}
