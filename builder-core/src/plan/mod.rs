//! What a build will do, decided before anything is done. Pure.
//!
//! Planning needs the configurations of base images, and can't fetch them: [`plan`] is called with the configurations
//! known so far, and answers either with a plan or with the sources whose configurations it needs next.
//!
//! ```text
//! Dockerfile + build arguments --graph--> which stages, from what
//! stage + configuration of its base --stage--> steps + final configuration + history
//! ```

mod copy;
mod error;
mod graph;
mod run;
mod stage;
mod step;
mod variables;

pub use error::PlanError;
pub use graph::{Needed, Outcome, Plan, PlanOptions, plan};
pub(crate) use graph::{external_source, predefined_args};
pub use stage::HISTORY_COMMENT;
pub use step::{
    Action, Add, Copy, CopySource, NetworkChoice, Origin, Run, Source, StageIndex, StagePlan, Step, UsedVariable,
};
