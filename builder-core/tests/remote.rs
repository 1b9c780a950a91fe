//! Files over HTTP and git repositories.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod common;

#[path = "remote/download.rs"]
mod download;
#[path = "remote/git.rs"]
mod git;
#[path = "remote/secure.rs"]
mod secure;
