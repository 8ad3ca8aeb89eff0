//! Draws the faults of a plan.

use eventhubs_processor::error::TransportErrorKind;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

use super::fault::{Fault, FaultKind};
use crate::history::Time;

/// The group that faults are drawn for.
pub(super) struct Context {
    pub(super) slots: usize,
    pub(super) peers: usize,
    pub(super) partitions: u32,
    pub(super) expiry: Time,
    pub(super) interval: Time,
}

impl Context {
    pub(super) fn fault(&self, rng: &mut impl Rng) -> (FaultKind, Time) {
        let slot = rng.random_range(0..self.slots);
        let short = rng.random_range(1_000..30_000);
        let long = rng.random_range(1_000..self.expiry * 2);
        match rng.random_range(0..20) {
            0 | 1 => (FaultKind::Crash { slot }, long),
            2 | 3 => (FaultKind::Restart { slot }, short),
            4..=6 => (FaultKind::Pause { slot }, long),
            7 => (FaultKind::StoreDown, long),
            8 => (FaultKind::StoreDownFor { slot }, long),
            9 => {
                let factor = *[5, 20, 80, 400].choose(rng).unwrap_or(&20);
                (FaultKind::StoreSlow { factor }, long)
            }
            10..=12 => {
                let mut rate = || *[0, 0, 20, 100, 300].choose(rng).unwrap_or(&0);
                let kind = FaultKind::StoreLossy {
                    failed: rate(),
                    lost_requests: rate(),
                    lost_replies: rate(),
                    late: rate(),
                    repeated: 0,
                };
                (kind, long)
            }
            13 => {
                let partition = rng.random_range(0..self.partitions);
                (FaultKind::LinkDrop { partition }, 0)
            }
            14 => (FaultKind::LinkDropAll { slot }, 0),
            15 => (FaultKind::FailedAttaches { rate: 500 }, short),
            16 => match rng.random_range(0..3) {
                0 => (FaultKind::HandlerErrors { rate: 100 }, short),
                1 => (FaultKind::HandlerPanics { rate: 50 }, short),
                _ => (FaultKind::HandlerSlow { ms: 15_000 }, short),
            },
            17 => (FaultKind::Join, long),
            18 if self.peers > 0 => {
                let peer = rng.random_range(0..self.peers);
                if rng.random_range(0..2) == 0 {
                    (FaultKind::PeerCrash { peer }, long)
                } else {
                    (FaultKind::PeerRestart { peer }, short)
                }
            }
            _ => {
                let by = rng.random_range(1..=4);
                (FaultKind::Grow { by }, 0)
            }
        }
    }

    /// Faults from a stream of their own: seeds that are kept for what they once showed stay what they were without
    /// them.
    pub(super) fn rarer(&self, rng: &mut impl Rng, chaos_ms: Time) -> Vec<Fault> {
        let mut faults = Vec::new();
        for _ in 0..*[0, 0, 1, 2, 3, 4].choose(rng).unwrap_or(&0) {
            let at = rng.random_range(0..chaos_ms);
            let short = rng.random_range(1_000..30_000);
            let long = rng.random_range(1_000..self.expiry * 2);
            let slot = rng.random_range(0..self.slots);
            let partition = rng.random_range(0..self.partitions);
            match rng.random_range(0..16) {
                // One after the other, or most of them at once.
                0 | 1 => {
                    let pause = rng.random_range(1_000..=10_000);
                    let faults_of = (0..self.slots).map(|slot| Fault {
                        at: (at + slot as Time * pause).min(chaos_ms),
                        lasts: pause / 2,
                        kind: FaultKind::Restart { slot },
                    });
                    faults.extend(faults_of);
                    continue;
                }
                2 => {
                    let survivors = rng.random_range(0..self.slots);
                    let faults_of = (survivors..self.slots).map(|slot| Fault {
                        at,
                        lasts: long.min(chaos_ms - at),
                        kind: FaultKind::Crash { slot },
                    });
                    faults.extend(faults_of);
                    continue;
                }
                number => {
                    let (kind, lasts) = match number {
                        3 | 4 => (FaultKind::LinkSilence { slot }, long),
                        5 => (FaultKind::AttachHangs, short),
                        6 => {
                            use TransportErrorKind as Kind;
                            let kinds = [
                                Kind::ServerBusy,
                                Kind::Unauthorized,
                                Kind::NotFound,
                                Kind::QuotaExceeded,
                                Kind::Disabled,
                                Kind::OwnershipLost,
                                Kind::Timeout,
                            ];
                            let kind = *kinds.choose(rng).unwrap_or(&Kind::ServerBusy);
                            (FaultKind::AttachRefused { kind }, short)
                        }
                        7 => (FaultKind::Outsider { partition }, short),
                        8 => (FaultKind::OwnershipDeleted { partition }, 0),
                        9 => (FaultKind::CheckpointDeleted { partition }, 0),
                        10 => (FaultKind::HandlerHangs { rate: 30 }, long),
                        11 => (FaultKind::ManagementDown, long),
                        12 => (FaultKind::ManagementShort, long),
                        13 => (FaultKind::Repeats { rate: 300 }, long),
                        14 => (FaultKind::Touched { partition }, long),
                        _ if rng.random_range(0..2) == 0 => {
                            let ms = self.interval / 2;
                            (FaultKind::StaleListings { ms }, long)
                        }
                        _ => {
                            let kind = FaultKind::StoreLossy {
                                failed: 0,
                                lost_requests: 0,
                                lost_replies: 0,
                                late: 0,
                                repeated: 200,
                            };
                            (kind, long)
                        }
                    };
                    let lasts = lasts.min(chaos_ms - at);
                    faults.push(Fault { at, lasts, kind });
                }
            }
        }
        faults
    }

    /// Once in a while everything that makes a processor doubt what it owns comes together: its link is silent, the
    /// store is down, and calls that have piled up events end just when the link proves nothing any more.
    pub(super) fn cut_off(&self, rng: &mut impl Rng, chaos_ms: Time) -> Vec<Fault> {
        const BUSY: Time = 20_000;
        const SILENT: Time = 70_000;
        if chaos_ms < BUSY + SILENT || rng.random_range(0..30) > 0 {
            return Vec::new();
        }
        let at = rng.random_range(0..=chaos_ms - BUSY - SILENT);
        let slot = rng.random_range(0..self.slots);
        let hang = rng.random_range(61_000..66_000);
        [
            (0, BUSY, FaultKind::HandlerSlow { ms: 15_000 }),
            (
                BUSY - 2_000,
                2_000 + hang,
                FaultKind::HandlerHangs { rate: 500 },
            ),
            (BUSY, SILENT, FaultKind::LinkSilence { slot }),
            (BUSY, SILENT, FaultKind::StoreDown),
        ]
        .map(|(after, lasts, kind)| Fault {
            at: at + after,
            lasts,
            kind,
        })
        .into()
    }
}
