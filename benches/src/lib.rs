//! Benchmarks of rbuild: they measure and assert nothing.
