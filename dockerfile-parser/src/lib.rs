//! The Dockerfile language: text to typed stages.
//!
//! ```
//! let (file, diagnostics) = rbuild_dockerfile::parse("FROM scratch AS Base\nCOPY --chown=1:2 a b /c/\n");
//! assert!(!diagnostics.has_errors());
//! let stage = &file.stages[0];
//! assert_eq!(stage.name.as_deref(), Some("base"));
//! let rbuild_dockerfile::Instruction::Copy(copy) = file.stage_nodes(stage)[0].instruction.as_ref().unwrap() else {
//!     unreachable!("the second line is a COPY")
//! };
//! assert_eq!(copy.destination.text, "/c/");
//! assert_eq!(file.to_string(), file.source());
//! ```
//!
//! [`parse`] never fails: what is wrong is in the [`Diagnostics`], and everything else is there. Words are kept as
//! written; [`word`] expands them, and [`mount`], [`chmod`], [`port`], [`signal`] and [`duration`] read what they
//! become. [`lint::lint`] looks for mistakes that are no errors. The behaviour is BuildKit 0.32's; where a rule is
//! surprising, the item says so.
//!
//! The crate is pure: no input or output, no environment, no clock.

#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod chmod;
pub mod device;
mod diagnostic;
mod directive;
mod dockerfile;
pub mod duration;
mod heredoc;
pub mod history;
pub mod instruction;
mod json;
mod lexer;
pub mod lint;
pub mod mount;
mod parse;
pub mod port;
pub mod signal;
mod span;
mod stage;
mod suggest;
mod truth;
pub mod word;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use directive::{DEFAULT_ESCAPE, Directive, DirectiveForm, Directives};
pub use dockerfile::{Dockerfile, Node};
pub use heredoc::{Heredoc, HeredocWord};
pub use instruction::{CommandLine, Instruction, parse_trigger};
pub use lexer::{MAX_LINE_BYTES, Word};
pub use parse::parse;
pub use span::{LineIndex, LineRange, Position, Span};
pub use stage::{Stage, find_stage};
pub use suggest::nearest;
pub use truth::parse_bool;
