//! What a build will do, decided before anything is done. Pure.
//!
//! Planning needs the configurations of base images, and can't fetch them: [`plan`] is called with the configurations
//! known so far, and answers either with a plan or with the sources whose configurations it needs next.
//!
//! ```text
//! Dockerfile + build arguments --graph--> which stages, from what
//! stage + configuration of its base --stage--> steps + final configuration + history
//! ```

mod arguments;
mod configuration;
mod copy;
mod error;
mod graph;
mod names;
mod run;
mod source;
mod stage;
mod state;
mod step;
mod target;
mod variables;
mod workdir;

pub(crate) use arguments::{SOURCE_DATE_EPOCH, predefined_args, source_date_epoch};
pub use error::{PlanError, PlanErrors};
pub use graph::{Needed, Outcome, Plan, PlanOptions, PlatformChoice, plan};
pub(crate) use graph::{Stages, glance};
pub(crate) use source::external_source;
pub use stage::HISTORY_COMMENT;
pub use step::{
    Action, Add, Copy, CopySource, NetworkChoice, Origin, Run, Source, StageIndex, StagePlan, Step, UsedVariable,
};
