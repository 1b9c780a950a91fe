//! The content-addressed store: an OCI layout with unpacked layers, records and locks beside it.
