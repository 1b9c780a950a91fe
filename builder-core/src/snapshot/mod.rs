//! File trees on disk, for RUN steps: stacked layers before, the changes after.
