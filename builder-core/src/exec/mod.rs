//! Runs a plan: the only module that orchestrates.
