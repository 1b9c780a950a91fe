//! Kernel calls: namespaces, mounts, processes. The only unsafe code of the project.
