//! Files from git repositories and web servers.
