//! Helper programs.
