//! The build context: what COPY, ADD and bind mounts can reach of a folder, and how they copy it.
