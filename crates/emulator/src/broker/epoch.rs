//! Who may read a partition within one consumer group (the owner level, "epoch" on the wire).

/// PROTOCOL: receivers without an owner level per partition and consumer group.
pub(crate) const MAX_RECEIVERS: usize = 5;

/// What a receiver says of itself when it attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) epoch: Option<i64>,
    pub(crate) name: Option<String>,
}

/// Why a receiver may not attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A receiver with an owner level is there, the new one has none.
    EpochReceiverExists { epoch: i64 },
    /// A receiver with a higher owner level is there.
    HigherEpochExists { current: Claim },
    /// As many receivers as allowed are there.
    TooMany { names: Vec<Option<String>> },
}

/// A receiver that has to go because of a newcomer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evicted<H> {
    pub(crate) claim: Claim,
    pub(crate) handle: H,
}

/// The receivers of one partition in one consumer group.
///
/// INVARIANT: either all of them are without an owner level, or there is exactly one.
#[derive(Debug)]
pub(crate) struct EpochTable<H> {
    receivers: Vec<Receiver<H>>,
}

#[derive(Debug)]
struct Receiver<H> {
    id: u64,
    claim: Claim,
    handle: H,
}

impl<H> Default for EpochTable<H> {
    fn default() -> Self {
        Self {
            receivers: Vec::new(),
        }
    }
}

impl<H> EpochTable<H> {
    pub(crate) fn is_empty(&self) -> bool {
        self.receivers.is_empty()
    }

    /// All receivers: what they said of themselves, and their handles.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Claim, &H)> {
        self.receivers.iter().map(|r| (&r.claim, &r.handle))
    }

    pub(crate) fn len(&self) -> usize {
        self.receivers.len()
    }

    /// Lets a receiver in and tells who has to leave for it.
    ///
    /// PROTOCOL: an equal owner level steals. All processors use level 0, so this is what hands a
    /// partition over (azure-sdk-for-rust#4821, azure-sdk-for-java#12483).
    pub(crate) fn admit(
        &mut self,
        id: u64,
        claim: Claim,
        handle: H,
    ) -> Result<Vec<Evicted<H>>, Refusal> {
        let current = self
            .receivers
            .iter()
            .find(|r| r.claim.epoch.is_some())
            .map(|r| &r.claim);
        let evicted = match (current.and_then(|c| c.epoch), claim.epoch) {
            (Some(epoch), None) => return Err(Refusal::EpochReceiverExists { epoch }),
            (Some(old), Some(new)) if new < old => {
                let current = current.cloned().unwrap_or(Claim {
                    epoch: Some(old),
                    name: None,
                });
                return Err(Refusal::HigherEpochExists { current });
            }
            (None, None) if self.receivers.len() >= MAX_RECEIVERS => {
                let names = self
                    .receivers
                    .iter()
                    .map(|r| r.claim.name.clone())
                    .collect();
                return Err(Refusal::TooMany { names });
            }
            (None, None) => Vec::new(),
            (_, Some(_)) => self
                .receivers
                .drain(..)
                .map(|r| Evicted {
                    claim: r.claim,
                    handle: r.handle,
                })
                .collect(),
        };
        self.receivers.push(Receiver { id, claim, handle });
        Ok(evicted)
    }

    /// Forgets a receiver, and with it its owner level.
    pub(crate) fn leave(&mut self, id: u64) {
        self.receivers.retain(|r| r.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(epoch: impl Into<Option<i64>>) -> Claim {
        Claim {
            epoch: epoch.into(),
            name: None,
        }
    }

    fn table(epochs: &[Option<i64>]) -> EpochTable<u64> {
        let mut table = EpochTable::default();
        for (id, epoch) in (100..).zip(epochs) {
            table.admit(id, claim(*epoch), id).unwrap();
        }
        table
    }

    fn evicted(result: Result<Vec<Evicted<u64>>, Refusal>) -> Vec<u64> {
        result.unwrap().into_iter().map(|e| e.handle).collect()
    }

    #[test]
    fn five_receivers_without_level_share_a_partition() {
        let mut table = table(&[None; 4]);
        assert!(evicted(table.admit(1, claim(None), 1)).is_empty());
        let refused = table.admit(2, claim(None), 2).unwrap_err();
        assert_eq!(
            refused,
            Refusal::TooMany {
                names: vec![None; 5]
            }
        );
        table.leave(1);
        assert!(table.admit(2, claim(None), 2).is_ok());
    }

    #[test]
    fn a_level_evicts_all_receivers_without() {
        let mut table = table(&[None; 5]);
        assert_eq!(
            evicted(table.admit(1, claim(0), 1)),
            [100, 101, 102, 103, 104]
        );
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn higher_and_equal_levels_steal() {
        let mut table = table(&[Some(3)]);
        assert_eq!(evicted(table.admit(1, claim(3), 1)), [100]);
        assert_eq!(evicted(table.admit(2, claim(4), 2)), [1]);
    }

    #[test]
    fn lower_and_missing_levels_are_refused() {
        let mut table = table(&[Some(3)]);
        let refused = table.admit(1, claim(2), 1).unwrap_err();
        assert_eq!(refused, Refusal::HigherEpochExists { current: claim(3) });
        let refused = table.admit(2, claim(None), 2).unwrap_err();
        assert_eq!(refused, Refusal::EpochReceiverExists { epoch: 3 });
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_level_is_forgotten_when_its_receiver_leaves() {
        let mut table = table(&[Some(3)]);
        table.leave(100);
        assert!(table.is_empty());
        assert!(evicted(table.admit(1, claim(None), 1)).is_empty());
    }

    #[test]
    fn a_stolen_receiver_that_leaves_late_does_not_take_its_successor_along() {
        let mut table = table(&[Some(0)]);
        table.admit(1, claim(0), 1).unwrap();
        table.leave(100);
        assert_eq!(table.len(), 1);
    }
}
