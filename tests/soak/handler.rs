//! A handler that is slow, fails and panics.

use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventhubs_processor::{
    EventHandler, HandlerResult, PartitionContext, ProcessingError, ReceivedEvent,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::truth::Truth;

const PANIC: &str = "on purpose";

pub(crate) fn is_on_purpose(info: &PanicHookInfo<'_>) -> bool {
    info.payload().downcast_ref::<&str>() == Some(&PANIC)
}

pub(crate) struct Clumsy {
    truth: Arc<Truth>,
    rng: Mutex<StdRng>,
}

impl Clumsy {
    pub(crate) fn new(truth: Arc<Truth>, seed: u64) -> Self {
        Self {
            truth,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }
}

fn number(context: &PartitionContext) -> u32 {
    context.partition_id().as_str().parse().unwrap()
}

impl EventHandler for Clumsy {
    async fn on_event(&self, context: &PartitionContext, event: ReceivedEvent) -> HandlerResult {
        let partition = number(context);
        self.truth.called(partition);
        let (chance, delay) = {
            let mut rng = self.rng.lock().unwrap();
            (rng.random_range(0..10_000), rng.random_range(0..20))
        };
        match chance {
            0..50 => {
                self.truth.failed(partition);
                return Err("on purpose".into());
            }
            50..60 => {
                self.truth.failed(partition);
                std::panic::panic_any(PANIC);
            }
            60..65 => tokio::time::sleep(Duration::from_millis(100 * delay)).await,
            65..3000 => tokio::time::sleep(Duration::from_millis(delay)).await,
            _ => {}
        }
        self.truth
            .processed(partition, event.sequence_number(), &event.body_as_str());
        Ok(())
    }

    async fn on_error(&self, context: Option<&PartitionContext>, _error: &ProcessingError) {
        // What concerns no partition says nothing about one that is silent.
        if let Some(context) = context {
            self.truth.told(number(context));
        }
    }
}
