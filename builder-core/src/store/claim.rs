//! Claims: what a running process uses is not removed under it.
//!
//! A process claims an object before it looks whether the object is there, and keeps the claim until its store handle
//! goes. Who removes objects first finds out that nobody claims them, and keeps others from claiming them while it
//! moves them out of the way. So an object that was seen stays as long as who saw it; one that was removed is seen as
//! missing.
//!
//! A claim is a shared lock on one byte of `locks/claims`, whose place is derived from the object's name. Nothing is
//! written, so claims work on a full disk, and the kernel gives them up when a process ends, however that happens. Two
//! objects whose places collide only protect each other.
//!
//! Where the file system has no such locks, a process holds `locks/lease` instead, and pruning has to wait for its end.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;

use super::lock::{Lock, open_lock_file};
use super::{Store, StoreError};
use crate::oci::{DiffId, Digest};
use crate::sys::byte_lock::{ByteLock, lock_byte, try_lock_byte, unlock_all, unlock_byte};

/// How many bits of a name make its place.
const PLACE_BITS: u32 = 60;

/// Something that can be claimed, by the place of its byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimed(u64);

impl Claimed {
    pub(super) fn blob(digest: &Digest) -> Self {
        Self(place(&digest.hex()))
    }

    pub(super) fn layer(diff_id: DiffId) -> Self {
        Self(1 << PLACE_BITS | place(&diff_id.0.hex()))
    }

    /// A cache mount, the record of a build: `kind` keeps names of different sorts apart.
    pub(super) fn named(kind: &str, name: &str) -> Self {
        Self(2 << PLACE_BITS | place(&blake3::hash(format!("{kind}\0{name}").as_bytes()).to_hex()))
    }
}

fn place(hex: &str) -> u64 {
    let digits = &hex[..(PLACE_BITS / 4) as usize];
    u64::from_str_radix(digits, 16).expect("a digest is written in hexadecimal digits")
}

/// The claims of one store handle.
#[derive(Debug, Default)]
pub(super) struct Claims {
    way: OnceLock<Way>,
    held: Mutex<BTreeSet<Claimed>>,
}

/// How claims are made.
#[derive(Debug)]
enum Way {
    Bytes(File),
    /// Everything is claimed at once.
    Lease {
        _lock: Lock,
    },
    /// On a read-only file system nothing can be removed.
    Needless,
}

/// Keeps what a running build uses from being pruned, until it is dropped together with the store's handles.
#[derive(Debug)]
#[must_use = "the build is protected only as long as this lives"]
pub struct Lease {
    _store: Store,
}

impl Store {
    /// Makes sure that what is used through this handle can be protected from being pruned, and keeps it protected.
    ///
    /// # Errors
    /// When the locks can't be opened or taken.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        self.way()?;
        Ok(Lease { _store: self.clone() })
    }

    /// Claims an object until the handle goes. Without success only where [`Self::lease`] fails too.
    pub(super) fn claim(&self, claimed: Claimed) {
        let mut held = self.inner.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(claimed) {
            return;
        }
        let failure = match self.way() {
            Ok(Way::Bytes(file)) => match lock_byte(file.as_fd(), claimed.0, ByteLock::Shared) {
                Ok(()) => return,
                Err(errno) => errno.to_string(),
            },
            Ok(Way::Lease { .. } | Way::Needless) => return,
            Err(error) => error.to_string(),
        };
        held.remove(&claimed);
        drop(held);
        tracing::warn!(failure, "could not claim an object of the store");
    }

    /// Gives up all claims of this handle, for a build that is over.
    pub fn give_up_claims(&self) {
        let mut held = self.inner.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Way::Bytes(file)) = self.inner.claims.way.get()
            && unlock_all(file.as_fd()).is_ok()
        {
            held.clear();
        }
    }

    fn way(&self) -> Result<&Way, StoreError> {
        let way = &self.inner.claims.way;
        if let Some(way) = way.get() {
            return Ok(way);
        }
        let found = self.find_way()?;
        Ok(way.get_or_init(|| found))
    }

    fn find_way(&self) -> Result<Way, StoreError> {
        let path = self.path("locks/claims");
        let file = match open_lock_file(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                return Ok(Way::Needless);
            }
            other => other?,
        };
        match lock_byte(file.as_fd(), 0, ByteLock::Shared) {
            Ok(()) => Ok(Way::Bytes(file)),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOLCK) => Ok(Way::Lease { _lock: self.lock_shared("lease")? }),
            Err(errno) => Err(StoreError::errno("lock", &path)(errno)),
        }
    }
}

/// Finds out what nobody claims. It sees the claims of its own process too.
#[derive(Debug)]
pub(super) struct Unclaimed {
    file: File,
    path: std::path::PathBuf,
    /// Held where claims can't be made one by one, so that no build begins meanwhile.
    _alone: Option<Lock>,
}

impl Unclaimed {
    /// # Errors
    /// [`StoreError::Busy`] when a process works that can't claim things one by one.
    pub(super) fn new(store: &Store) -> Result<Self, StoreError> {
        let path = store.path("locks/claims");
        let file = open_lock_file(&path)?;
        let alone = store.try_lock("lease")?.ok_or_else(|| StoreError::Busy { path: store.root().to_owned() })?;
        let alone = match try_lock_byte(file.as_fd(), 0, ByteLock::Shared) {
            Ok(_) => None,
            Err(_) => Some(alone),
        };
        Ok(Self { file, path, _alone: alone })
    }

    /// Does something with an object that nobody claims, which nobody can claim meanwhile; `None` where somebody does.
    pub(super) fn with<T>(
        &self,
        claimed: Claimed,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if self._alone.is_some() {
            return act().map(Some);
        }
        if !try_lock_byte(self.file.as_fd(), claimed.0, ByteLock::Exclusive)
            .map_err(StoreError::errno("lock", &self.path))?
        {
            return Ok(None);
        }
        let done = act();
        unlock_byte(self.file.as_fd(), claimed.0).map_err(StoreError::errno("unlock", &self.path))?;
        done.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn what_is_claimed_is_left_alone_until_the_claim_goes() {
        let (_dir, store) = scratch();
        let digest = Digest::of(b"x");
        let others = Store::open(store.root()).unwrap();
        let unclaimed = Unclaimed::new(&others).unwrap();
        let free = |claimed| unclaimed.with(claimed, || Ok(())).unwrap().is_some();
        assert!(free(Claimed::blob(&digest)));
        store.claim(Claimed::blob(&digest));
        store.claim(Claimed::named("mount", "x"));
        assert!(!free(Claimed::blob(&digest)) && !free(Claimed::named("mount", "x")));
        assert!(free(Claimed::layer(DiffId(digest))) && free(Claimed::named("build", "x")));
        store.give_up_claims();
        assert!(free(Claimed::blob(&digest)) && free(Claimed::named("mount", "x")));
        store.claim(Claimed::blob(&digest));
        assert!(!free(Claimed::blob(&digest)));
        drop(store);
        assert!(free(Claimed::blob(&digest)));
    }

    #[test]
    fn a_handle_sees_its_own_claims() {
        let (_dir, store) = scratch();
        store.claim(Claimed::named("mount", "x"));
        let unclaimed = Unclaimed::new(&store).unwrap();
        assert!(unclaimed.with(Claimed::named("mount", "x"), || Ok(())).unwrap().is_none());
        assert!(unclaimed.with(Claimed::named("mount", "y"), || Ok(())).unwrap().is_some());
    }

    #[test]
    fn a_claim_waits_until_the_object_was_moved_away() {
        let (_dir, store) = scratch();
        let claimed = Claimed::blob(&Digest::of(b"x"));
        let unclaimed = Unclaimed::new(&Store::open(store.root()).unwrap()).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            unclaimed
                .with(claimed, || {
                    scope.spawn(|| {
                        store.claim(claimed);
                        sender.send(()).unwrap();
                    });
                    assert!(receiver.try_recv().is_err());
                    Ok(())
                })
                .unwrap();
            receiver.recv().unwrap();
        });
    }
}
