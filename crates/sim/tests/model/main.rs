//! The ownership and checkpoint protocol as an executable specification, explored exhaustively.
//!
//! Some processors of ours and a foreign one share partitions. Any of ours may lapse (be silent for so long that the
//! others take it for dead), wake up, crash, steal, or leave at any moment; checkpoints on their way may be lost, late,
//! doubled, and their replies may be lost. What must hold in every state reached that way is in [`Protocol::properties`].
//! Each rule that the library follows can be taken away, and then there is a counter-example.
//!
//! `cargo test --release -p eventhubs-sim --test model -- --ignored --nocapture` explores 900,000 states.

#![allow(
    clippy::print_stdout,
    reason = "how many states there are, and the counter-examples, are what one wants to see"
)]

mod protocol;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use self::protocol::{Budget, CheckpointRule, Protocol};

const ALL: [&str; 3] = [MONOTONE, PROCESSED, ONE_DISPATCHER];
const MONOTONE: &str = "our writes never lower a checkpoint";
const PROCESSED: &str = "everything up to the checkpoint is processed";
const ONE_DISPATCHER: &str = "one processor at most may start a handler";

fn small() -> Protocol {
    Protocol {
        processors: 2,
        partitions: 1,
        events: 2,
        checkpoints: CheckpointRule::CasMax,
        heirs_wait: true,
        lapse_voids_records: true,
        handlers_finish_first: true,
        budget: Budget {
            claims: 2,
            lapses: 1,
            crashes: 0,
            writes: 1,
            foreign_writes: 1,
        },
    }
}

/// Which of the watched promises are broken. Explores everything, or up to the first of them.
fn broken(model: Protocol, watched: &[&'static str]) -> Vec<&'static str> {
    let begun = Instant::now();
    let checker = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf(watched.iter().copied().collect()))
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    println!("{states} states in {:.1?}", begun.elapsed());
    assert!(states > 100, "the model does something: {states} states");
    let mut broken = Vec::new();
    for (name, path) in checker.discoveries() {
        if watched.contains(&name) {
            println!("{name}: {:?}", path.into_actions());
            broken.push(name);
        }
    }
    broken
}

#[test]
fn two_processors_and_a_foreign_writer_keep_every_promise() {
    assert!(broken(small(), &ALL).is_empty());
}

#[test]
fn two_partitions_share_a_lease_and_keep_every_promise() {
    let mut model = small();
    model.partitions = 2;
    model.events = 1;
    model.budget = Budget {
        claims: 3,
        lapses: 1,
        crashes: 0,
        writes: 0,
        foreign_writes: 0,
    };
    assert!(broken(model, &ALL).is_empty());
}

/// As with a foreign thief, which waits for nobody.
fn overlap(model: &mut Protocol) {
    model.heirs_wait = false;
    model.budget.lapses = 0;
    model.budget.foreign_writes = 0;
    model.budget.writes = 3;
}

#[test]
fn owners_that_overlap_do_not_move_the_checkpoint_back() {
    let mut model = small();
    overlap(&mut model);
    assert!(broken(model, &[MONOTONE, PROCESSED]).is_empty());
}

#[test]
fn checkpoints_without_a_condition_go_back() {
    let mut model = small();
    model.checkpoints = CheckpointRule::Unconditional;
    model.budget.writes = 2;
    assert_eq!(broken(model, &[MONOTONE]), [MONOTONE]);
}

#[test]
fn a_condition_alone_does_not_keep_checkpoints_from_going_back() {
    let mut model = small();
    model.checkpoints = CheckpointRule::NaiveCas;
    overlap(&mut model);
    assert_eq!(broken(model, &[MONOTONE]), [MONOTONE]);
}

#[test]
fn heirs_that_do_not_wait_start_handlers_too_early() {
    let mut model = small();
    model.heirs_wait = false;
    assert_eq!(broken(model, &[ONE_DISPATCHER]), [ONE_DISPATCHER]);
}

#[test]
fn giving_back_before_the_handler_has_finished_overlaps() {
    let mut model = small();
    model.handlers_finish_first = false;
    assert_eq!(broken(model, &[ONE_DISPATCHER]), [ONE_DISPATCHER]);
}

/// A renewal of one record proves nothing about another that could be taken while the owner was silent.
#[test]
fn a_lease_that_lapsed_is_not_restored_by_a_renewal_elsewhere() {
    let mut model = small();
    model.partitions = 2;
    model.events = 1;
    model.lapse_voids_records = false;
    model.budget = Budget {
        claims: 3,
        lapses: 1,
        crashes: 0,
        writes: 0,
        foreign_writes: 0,
    };
    assert_eq!(broken(model, &[ONE_DISPATCHER]), [ONE_DISPATCHER]);
}

#[test]
#[ignore = "half a minute; see the head of this file"]
fn more_writes_of_two_processors_keep_every_promise() {
    let mut model = small();
    model.budget.writes = 2;
    assert!(broken(model, &ALL).is_empty());
}

#[test]
#[ignore = "minutes; see the head of this file"]
fn three_processors_and_a_foreign_writer_keep_every_promise() {
    let mut model = small();
    model.processors = 3;
    model.budget = Budget {
        claims: 3,
        lapses: 1,
        crashes: 1,
        writes: 1,
        foreign_writes: 0,
    };
    assert!(broken(model, &ALL).is_empty());
}

#[test]
fn the_promises_are_those_of_the_model() {
    let properties = small().properties();
    let names: Vec<_> = properties.iter().map(|property| property.name).collect();
    assert_eq!(names, ALL);
}
