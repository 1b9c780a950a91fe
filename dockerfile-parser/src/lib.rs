//! The Dockerfile language: text to typed stages.
