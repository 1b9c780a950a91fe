//! The rbuild command.
#![forbid(unsafe_code)]
mod args;
mod output;
mod settings;
fn main() {}
