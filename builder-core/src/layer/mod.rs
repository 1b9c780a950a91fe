//! Layers: changes to a tree as a tar stream, and back.
