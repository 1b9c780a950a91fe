//! Networks of steps.
