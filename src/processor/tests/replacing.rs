//! Processors of our kind replaced one after the other and two at a time, in whatever state they are: how long a
//! partition is unread.

use std::time::Duration;

use tokio::time::sleep;

use super::support::{FlakyStore, Recorder, eventually, kin_builder, owners};
use super::world::{Closing, World};
use crate::model::OwnerId;
use crate::processor::ProcessorHandle;
use crate::transport::fake::FakeEventHub;

const PARTITIONS: usize = 4;
const INTERVAL: Duration = Duration::from_secs(3);
const SEEDS: u64 = 50;

/// Everybody passes on what it has: the wait for a look, a few requests to a store that may be fifteen times as slow as
/// usual, and an attach.
const PASSED_ON: Duration = Duration::from_millis(1500);

/// What nobody can pass on is given back, and taken in the others' next cycle.
const GIVEN_BACK: Duration = Duration::from_millis(3300 + 1500);

struct Fleet {
    world: World,
    running: Vec<ProcessorHandle>,
}

impl Fleet {
    async fn of_three(seed: u64) -> Self {
        let world = World::new(PARTITIONS, seed);
        world.set_slowness(world.random_below(15) as f64 + 1.0);
        let mut fleet = Self {
            world,
            running: Vec::new(),
        };
        for _ in 0..3 {
            fleet.start().await;
        }
        fleet.world.take_longest_gap();
        fleet
    }

    async fn for_up_to(&self, milliseconds: usize) {
        let time = self.world.random_below(milliseconds) as u64;
        sleep(Duration::from_millis(time)).await;
    }

    /// Starts one more and waits until it reads something.
    async fn start(&mut self) {
        let builder = self.world.builder().with_load_balancing_interval(INTERVAL);
        let handle = builder.build(Closing(self.world.clone())).unwrap().spawn();
        while self.world.read_by(&handle) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        self.running.push(handle);
    }

    async fn replace(&mut self) {
        self.running.remove(0).shutdown().await.unwrap();
        self.for_up_to(300).await;
        self.start().await;
    }

    /// Ends two within a second, and starts two others meanwhile.
    async fn replace_two(&mut self) {
        let ends = [0, self.world.random_below(1000) as u64].map(|after| {
            let handle = self.running.remove(0);
            tokio::spawn(async move {
                sleep(Duration::from_millis(after)).await;
                handle.shutdown().await.unwrap();
            })
        });
        self.for_up_to(1000).await;
        self.start().await;
        for end in ends {
            end.await.unwrap();
        }
        self.start().await;
    }

    /// Waits until everything is read and everybody reads something.
    async fn settle(&self) {
        let is_settled = || {
            let shares = self.running.iter().map(|handle| self.world.read_by(handle));
            let shares: Vec<_> = shares.collect();
            shares.iter().sum::<usize>() == PARTITIONS && !shares.contains(&0)
        };
        while !is_settled() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn assert_gap(&self, bound: Duration, seed: u64) {
        let gap = self.world.take_longest_gap();
        assert!(gap < bound, "unread for {gap:?} with seed {seed}");
    }
}

/// Runs a scenario with each seed, in a virtual time of its own.
fn with_each_seed(scenario: impl AsyncFn(u64)) {
    for seed in 0..SEEDS {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(scenario(seed));
    }
}

#[test]
fn who_is_replaced_at_any_moment_leaves_nothing_unread() {
    with_each_seed(async |seed| {
        let mut fleet = Fleet::of_three(seed).await;
        // At once, while partitions still move.
        for _ in 0..3 {
            fleet.replace().await;
        }
        for _ in 0..3 {
            fleet.settle().await;
            fleet.for_up_to(6000).await;
            fleet.replace().await;
        }
        fleet.settle().await;
        fleet.assert_gap(PASSED_ON, seed);
    });
}

#[test]
fn who_is_replaced_while_another_one_is_leaves_nothing_unread_for_longer_than_a_cycle() {
    with_each_seed(async |seed| {
        let mut fleet = Fleet::of_three(seed).await;
        for _ in 0..3 {
            fleet.replace_two().await;
        }
        for _ in 0..3 {
            fleet.settle().await;
            fleet.start().await;
            fleet.for_up_to(3000).await;
            fleet.replace_two().await;
            fleet.running.remove(0).shutdown().await.unwrap();
        }
        fleet.settle().await;
        fleet.assert_gap(GIVEN_BACK, seed);
    });
}

/// The heir looks four times a second, the newcomer lists as soon as it starts.
#[tokio::test(start_paused = true)]
async fn a_newcomer_takes_nothing_whose_heir_has_just_been_told() {
    for (name, phase) in ["b", "c", "d", "e"].into_iter().zip([10, 70, 130, 190]) {
        let (hub, store) = (FakeEventHub::new(4), FlakyStore::new());
        let owner: OwnerId = "rs1-60000-owner".into();
        for partition in 0..4 {
            store.put(&partition.to_string().into(), &owner).await;
        }
        let recorder = Recorder::new();
        let heir = kin_builder(&hub, &store, "a")
            .build(recorder.clone())
            .unwrap()
            .spawn();
        let us = Some(heir.owner_id().clone());
        let claimed = || async {
            let held = owners(&store).await.into_iter();
            held.filter_map(|(id, held)| (held == us).then_some(id))
                .collect::<Vec<_>>()
        };
        eventually("two claimed", || async { claimed().await.len() == 2 }).await;
        sleep(Duration::from_millis(phase)).await;
        let passed_on = claimed().await;
        for partition in &passed_on {
            store.put(partition, heir.owner_id()).await;
        }
        let _newcomer = kin_builder(&hub, &store, name)
            .build(recorder.clone())
            .unwrap()
            .spawn();
        for partition in passed_on {
            hub.send(partition.clone(), "x");
            sleep(Duration::from_secs(1)).await;
            assert_eq!(recorder.events(partition.as_str()), [0], "{name}, {phase}");
        }
    }
}
