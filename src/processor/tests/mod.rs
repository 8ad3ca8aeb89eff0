//! The processor over an event hub and a store in memory, in virtual time.

mod balancing;
mod checkpoints;
mod containment;
mod dead_letters;
mod deadlines;
mod failures;
mod figures;
mod gaps;
mod handing_over;
mod joining;
mod metrics;
mod own_writes;
mod parallel;
mod policies;
mod proofs;
mod pull_swarm;
mod pulling;
mod replacing;
mod restarts;
mod stalls;
mod status;
mod sticky;
mod stopping;
mod support;
mod terms;
mod world;
