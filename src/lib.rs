//! Event processor.
