//! Images: manifests, layouts, archives, and what is made of a finished build.
