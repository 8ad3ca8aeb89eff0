//! O8: what a pump has taken off its receiver and not begun is bounded (G7). The receiver's own part, the prefetch, is
//! the transport's.

use std::collections::BTreeMap;

use super::Broken;
use crate::history::{Happening, Member, Partition};

/// Two takes of 128: the second listens for news while the first is not done.
const MOST_EVENTS: u32 = 256;

/// Events that a processor of ours holds.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    held: BTreeMap<(Member, Partition), u32>,
}

impl Buffers {
    pub(super) fn apply(&mut self, happening: &Happening) -> Result<(), Broken> {
        match happening {
            Happening::Taken {
                member,
                partition,
                events,
                bytes,
            } => {
                let held = self.held.entry((*member, *partition)).or_default();
                *held += events;
                if *held > MOST_EVENTS {
                    let what = format!(
                        "{member} holds {held} events of {partition} after taking {bytes} bytes"
                    );
                    return Err(("O8 memory", what));
                }
            }
            Happening::HandlerStarted {
                member, partition, ..
            } => {
                if let Some(held) = self.held.get_mut(&(*member, *partition)) {
                    *held = held.saturating_sub(1);
                }
            }
            // What a term or a receiver leaves behind is dropped.
            Happening::Attached {
                member, partition, ..
            }
            | Happening::TermEnded {
                member, partition, ..
            } => {
                self.held.remove(&(*member, *partition));
            }
            Happening::Down { member, .. } => {
                self.held.retain(|(holder, _), _| holder != member);
            }
            _ => {}
        }
        Ok(())
    }
}
