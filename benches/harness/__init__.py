"""What `benches/compare` and `benches/curves` share: workloads, builders, measuring and the tables."""
