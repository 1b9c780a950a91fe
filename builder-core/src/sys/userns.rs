//! User namespaces.
