//! Step keys and step records: what was done, and under which inputs.
