//! Random faults against whole groups.
