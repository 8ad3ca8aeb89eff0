//! The watchdog: looks at every partition now and then, asks the service how far behind it is, and says what to try.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::board::CredentialErrors;
use super::cell::{PartitionCell, Stage};
use super::stall::{Order, Sight, Watch};
use crate::error::TransportError;
use crate::model::{PartitionId, PartitionProperties};
use crate::processor::pump::Shared;
use crate::telemetry;

/// How often every partition is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the service is asked about a partition of which nothing is heard, at most.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Partitions asked about at the same time: `$management` is for all of a connection.
const MAX_ASKED: usize = 4;

/// Runs beside the control loop.
#[derive(Debug)]
pub(in crate::processor) struct Monitor {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Monitor {
    pub(in crate::processor) fn new(shared: Arc<Shared>) -> Self {
        let stop = CancellationToken::new();
        let rounds = Rounds::new(shared);
        Self {
            task: AbortOnDropHandle::new(tokio::spawn(rounds.run(stop.clone()))),
            stop,
        }
    }

    /// Ends it, after the last numbers have been passed on.
    pub(in crate::processor) async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(
                target: telemetry::WATCHDOG,
                is_panic = error.is_panic(), "the watchdog ended out of turn"
            );
        }
    }
}

/// What is known of a partition from one look to the next.
#[derive(Debug)]
struct Ward {
    watch: Watch,
    /// When the service is asked about it next.
    ask_at: Instant,
}

struct Rounds {
    shared: Arc<Shared>,
    wards: BTreeMap<PartitionId, Ward>,
    asked: JoinSet<(PartitionId, Result<PartitionProperties, TransportError>)>,
    /// Not the processor's: what others do must not depend on how often we ask.
    rng: StdRng,
    look_every: Duration,
    ask_every: Duration,
    #[cfg(feature = "metrics")]
    publisher: super::metrics::Publisher,
}

impl Rounds {
    fn new(shared: Arc<Shared>) -> Self {
        let options = &shared.options;
        let rng = match options.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        let timeout = options.stall_timeout.unwrap_or(Duration::MAX);
        Self {
            look_every: LOOK_EVERY.min(timeout / 8),
            ask_every: ASK_EVERY.min(timeout / 2),
            wards: BTreeMap::new(),
            asked: JoinSet::new(),
            rng,
            #[cfg(feature = "metrics")]
            publisher: super::metrics::Publisher::new(&shared.board),
            shared,
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(self.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(answer) = self.asked.join_next() => {
                    if let Ok((partition_id, answer)) = answer {
                        self.told(&partition_id, answer);
                    }
                }
                _ = looks.tick() => self.look(),
            }
        }
        #[cfg(feature = "metrics")]
        self.publisher.finish(&self.shared.board);
    }

    fn look(&mut self) {
        let shared = &self.shared;
        shared.board.set_credential_errors(CredentialErrors {
            event_hub: shared.transport.credential_error(),
            store: shared.store.credential_error(),
        });
        let read = self.shared.board.read();
        self.wards
            .retain(|id, _| read.binary_search_by(|(read, _)| read.cmp(id)).is_ok());
        for (partition_id, cell) in &read {
            self.warn_of_slow_calls(partition_id, cell);
            self.look_at(partition_id, cell);
        }
        #[cfg(feature = "metrics")]
        self.publisher.publish(&self.shared.board);
    }

    fn warn_of_slow_calls(&self, partition_id: &PartitionId, cell: &PartitionCell) {
        let Some(slow) = self.shared.options.slow_handler_warning else {
            return;
        };
        while let Some(call) = cell.next_slow_call(slow) {
            tracing::warn!(
                target: telemetry::WATCHDOG,
                %partition_id, hook = call.hook, running_for = ?call.running_for,
                "a hook of the handler runs for long; its partition waits for it"
            );
        }
    }

    fn look_at(&mut self, partition_id: &PartitionId, cell: &Arc<PartitionCell>) {
        let now = Instant::now();
        let ask_every = self.ask_every;
        let Self { rng, wards, .. } = self;
        let ward = wards.entry(partition_id.clone()).or_insert_with(|| {
            cell.set_stalled(false);
            Ward {
                watch: Watch::new(now),
                // Spread, or a processor that starts would ask about all partitions at once.
                ask_at: now + ask_every.mul_f64(rng.random_range(0.0..1.0)),
            }
        });
        if now >= ward.ask_at {
            let told = cell.seldom().end.map(|end| end.told);
            let fresh_until = told.map(|told| told + ask_every);
            // Events tell as they come; the service is asked about those of which none do.
            if let Some(fresh_until) = fresh_until.filter(|until| now < *until) {
                ward.ask_at = fresh_until;
            } else if self.asked.len() < MAX_ASKED {
                ward.ask_at = now + ask_every.mul_f64(rng.random_range(0.9..1.1));
                let (transport, partition_id) =
                    (Arc::clone(&self.shared.transport), partition_id.clone());
                self.asked.spawn(async move {
                    let answer = transport.partition_properties(&partition_id).await;
                    (partition_id, answer)
                });
            }
        }
        let Some(timeout) = self.shared.options.stall_timeout else {
            return;
        };
        let is_free = cell.stage() == Stage::Reading
            && !cell.is_unproven()
            && !cell.is_retrying()
            && self.shared.board.is_open(partition_id)
            // A shorter call shows in the progress, or is an idle one.
            && !cell.is_busy_for(self.look_every);
        let sight = Sight {
            progress: cell.progress(),
            is_free,
            is_behind: cell.is_behind(),
            has_received: cell.has_received(),
        };
        let was_stalled = ward.watch.is_stalled();
        let order = ward.watch.look(sight, now, timeout);
        let is_stalled = ward.watch.is_stalled();
        if was_stalled != is_stalled {
            cell.set_stalled(is_stalled);
            if is_stalled {
                cell.stalls.fetch_add(1, Ordering::Relaxed);
            } else {
                tracing::info!(
                    target: telemetry::WATCHDOG,
                    %partition_id, "the partition that had stalled goes on"
                );
            }
        }
        let Some(order) = order else {
            return;
        };
        match order {
            Order::Nudge => tracing::info!(
                target: telemetry::WATCHDOG,
                %partition_id, quiet_for = ?ward.watch.quiet_for(now),
                "no event comes although there are some; the credit is told again"
            ),
            // The application and the log are told by the partition's own task.
            Order::Treat(_) => {}
        }
        cell.order(order);
    }

    fn told(
        &self,
        partition_id: &PartitionId,
        answer: Result<PartitionProperties, TransportError>,
    ) {
        match answer {
            Ok(properties) => self.shared.board.cell(partition_id).told(&properties),
            // That nothing can be asked is told by the control loop, which asks the same about the event hub.
            Err(error) => tracing::debug!(
                target: telemetry::WATCHDOG,
                %partition_id, error = %telemetry::chain(&error),
                "the service did not say how far the partition has got"
            ),
        }
    }
}
