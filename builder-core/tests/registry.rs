//! The registry client against registries that behave, and registries that do not.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod common;

#[path = "registry/login.rs"]
mod login;
#[path = "registry/program.rs"]
mod program;
#[path = "registry/pull.rs"]
mod pull;
#[path = "registry/push.rs"]
mod push;
#[path = "registry/setup.rs"]
mod setup;
