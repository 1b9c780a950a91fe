//! Handles on file trees that somebody else wrote, from which no path leads out.
