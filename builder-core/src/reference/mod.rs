//! Names of images: registry, repository, tag and digest.
