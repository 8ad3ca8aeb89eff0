//! A processor that cannot get through does not try without end, or without pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::{
    BoxError, EventHandler, EventProcessor, HandlerResult, InMemoryCheckpointStore,
    PartitionContext, ProcessingError, ProcessorError, ReceivedEvent,
};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{client, emulator, options, web_sockets};
use crate::support::tls_front::{Authority, TlsFront};

/// Counts what it is told.
#[derive(Clone, Default)]
struct Told(Arc<AtomicUsize>);

impl EventHandler for Told {
    async fn on_event(&self, _: &PartitionContext, _: ReceivedEvent) -> HandlerResult {
        Ok(())
    }

    async fn on_error(&self, _: Option<&PartitionContext>, error: &ProcessingError) {
        assert!(matches!(error, ProcessingError::EventHub(_)), "{error}");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Takes connections and drops them. How many there were.
async fn slammer() -> (u16, Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let task = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn where_nobody_answers_tries_are_few_and_each_is_told() {
    for options in [options(), web_sockets()] {
        let (port, attempts, _task) = slammer().await;
        let transport = client(&format!("localhost:{port}"), options);
        let told = Told::default();
        let processor =
            EventProcessor::builder(transport, "$Default", InMemoryCheckpointStore::new())
                .build(told.clone())
                .unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(processor.run(stop.clone()));
        sleep(Duration::from_secs(4)).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        // At about 0, 0.8 and 2.4 s, each a little sooner or later.
        let attempts = attempts.load(Ordering::SeqCst);
        assert!((2..=4).contains(&attempts), "{attempts}");
        let told = told.0.load(Ordering::SeqCst);
        assert!(
            told == attempts || told + 1 == attempts,
            "{told} of {attempts}"
        );
    }
}

#[tokio::test]
async fn where_there_is_no_trust_a_start_ends_after_one_attempt() -> Result<(), BoxError> {
    let emulator = emulator().await;
    let front = TlsFront::start(emulator.amqp_addr(), &Authority::new(), "localhost", None).await;
    let transport = client(&format!("localhost:{}", front.port), options());
    let processor = EventProcessor::builder(transport, "$Default", InMemoryCheckpointStore::new())
        .build(Told::default())?;
    let running = processor.run(CancellationToken::new());
    let error = timeout(Duration::from_secs(20), running)
        .await?
        .unwrap_err();
    match error {
        ProcessorError::EventHub(error) => assert_eq!(error.kind(), Kind::Certificate, "{error}"),
        other => panic!("{other}"),
    }
    assert_eq!(front.accepted(), 1);
    Ok(())
}
