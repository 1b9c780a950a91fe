//! Progress as typed events: a build tells what it does, a sink shows or stores it.
//!
//! Events carry data, never text made for people, so each front end writes its own words.

mod miss;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Platform};

pub use miss::{ChangedFile, FileChange, Miss, MissCause, NAMED_FILES, VariableKind};

/// A step of a build, numbered from 0 in the order the steps were planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// Which stream of a command wrote output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a step is, told once before anything of it happens.
#[derive(Debug, Clone)]
pub struct StepInfo {
    /// The name of its stage, or its number where it has none; empty for what belongs to no stage.
    pub stage: String,
    /// The place of the instruction within its stage and how many there are, both counted from 1.
    pub position: Option<(usize, usize)>,
    /// The instruction as written, variables expanded (`RUN make -j2`), on one line.
    pub name: String,
    /// The bytes of the Dockerfile that it comes from.
    pub span: Option<Range<usize>>,
    /// The platform built for, when there are several.
    pub platform: Option<Platform>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEnd {
    /// An earlier result was used.
    Cached,
    /// It was done now.
    Done,
    /// It was done, and gave the same tree as an earlier run, so what follows stays cached.
    Unchanged,
    /// It failed; the build's error says why.
    Failed,
    /// The build stopped before the step ended.
    Cancelled,
}

/// Something happened in a build.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The plan is made: these are the steps, in order.
    Planned {
        /// The steps; a [`StepId`] is an index into them.
        steps: Vec<StepInfo>,
    },
    /// A step began.
    StepStarted {
        /// The step.
        step: StepId,
        /// Why no earlier result could be used; `None` where one is.
        miss: Option<Miss>,
    },
    /// A command wrote output: whole lines where the command writes lines, without their ends.
    Output {
        /// The step.
        step: StepId,
        /// The stream.
        stream: Stream,
        /// The bytes.
        line: Vec<u8>,
    },
    /// A step ended.
    StepEnded {
        /// The step.
        step: StepId,
        /// How.
        end: StepEnd,
        /// How long it took.
        took: Duration,
    },
    /// Bytes were moved: a pull, a push, an export.
    Transfer {
        /// What is moved, such as a digest or a file's name.
        what: String,
        /// How many bytes of it are done.
        done: u64,
        /// How many there are, where that is known.
        total: Option<u64>,
    },
    /// Something that the user should know and that is no error.
    Warning(Warning),
    /// A fact for people who look closely (`-v`): which rung of isolation, which network.
    Note(String),
    /// The image is whole.
    Built {
        /// The digest of its manifest, or of the index where there are several platforms.
        manifest: Digest,
        /// The digest of its configuration.
        config: Digest,
    },
}

/// A warning by a named rule, or of the build itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule's stable code; empty where no rule has a say.
    pub rule: String,
    /// What is wrong, one line.
    pub message: String,
    /// What to do about it; empty when the message says so.
    pub help: String,
    /// Where in the Dockerfile.
    pub span: Option<Range<usize>>,
}

/// Takes the events of a build, from several threads.
pub trait EventSink: Send + Sync {
    /// Takes one event. Must not block for long: the build waits for it.
    fn event(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync> EventSink for F {
    fn event(&self, event: Event) {
        self(event);
    }
}

/// A shared sink.
pub type Events = Arc<dyn EventSink>;
