//! Kernel calls: namespaces, mounts, processes. The only unsafe code of the project.
//!
//! ```text
//! userns    become uid 0 of an own user namespace before any thread exists; what this host allows
//! mount     mounts made by file descriptor: overlay, bind, tmpfs; nothing is attached until someone says where
//! sandbox   runs one RUN step: spawn, wait, kill
//! network   a network namespace with user-mode networking, and the two files a step's resolver reads
//! pty       terminals
//! bulk      large files past the page cache, where that is faster
//! byte_lock locks on single bytes of a file
//! emulation programs for other processors
//! process   helper programs (git, newuidmap, pasta) with a cleaned environment
//! heap      the C library's allocator
//! usage     how much memory processes use, and how much there is
//! ```
//!
//! `docs/kernel.md` lists each call with the kernel version it needs and what is done without it.
//! Nothing here reads the environment: search paths and names come from the caller.

pub mod bulk;
pub mod byte_lock;
mod call;
mod capabilities;
pub mod emulation;
pub mod heap;
pub mod mount;
pub mod network;
pub mod process;
pub mod pty;
pub mod sandbox;
mod seccomp;
pub(crate) mod threads;
pub mod usage;
pub mod userns;
