//! Servers that tests run in their own process.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod http;
pub mod registry;
