//! Registries: pulling and pushing by the OCI distribution spec.
