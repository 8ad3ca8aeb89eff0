//! What runs on a processor's own thread and what does not. Real threads, so real time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::support::{FlakyStore, builder};
use crate::model::ReceivedEvent;
use crate::processor::control_thread::{Place, Thread};
use crate::processor::{ControlThread, PartitionContext, ProcessorHandle, handler_fn};
use crate::transport::fake::FakeEventHub;

const PATIENCE: Duration = Duration::from_secs(20);
const OURS: &str = "eventhubs-control";
const THEIRS: &str = "the-application";

fn workers() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(THEIRS)
        .enable_all()
        .build()
        .unwrap()
}

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn thread_name() -> String {
    std::thread::current().name().unwrap_or("?").to_owned()
}

/// Runs a processor until it has checkpointed an event. Returns the threads that hooks ran on, and those that called
/// the store.
fn threads(runtime: &Runtime, control_thread: ControlThread) -> [BTreeSet<String>; 2] {
    let (hub, store) = (FakeEventHub::new(1), FlakyStore::new());
    let hooks = Arc::<Mutex<BTreeSet<String>>>::default();
    let noted = Arc::clone(&hooks);
    let handler = handler_fn(move |context: PartitionContext, event: ReceivedEvent| {
        noted.lock().unwrap().insert(thread_name());
        async move {
            context.update_checkpoint(&event).await?;
            context.stop_processor();
            Ok(())
        }
    });
    hub.send("0", "a");
    let builder = builder(&hub, &store, "a").with_control_thread(control_thread);
    let processor = builder.build(handler).unwrap();
    // On a worker, as an application does it.
    let running = async { timeout(PATIENCE, processor.spawn().join()).await };
    runtime.block_on(running).unwrap().unwrap();
    let hooks = hooks.lock().unwrap().clone();
    [hooks, store.threads()]
}

fn only(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

#[test]
fn calls_go_on_a_thread_of_their_own_and_hooks_stay_with_the_application() {
    for control_thread in [ControlThread::Auto, ControlThread::Own] {
        assert_eq!(
            threads(&workers(), control_thread),
            [only(THEIRS), only(OURS)]
        );
    }
    assert_eq!(
        threads(&single(), ControlThread::Own),
        [only(&thread_name()), only(OURS)]
    );
}

#[test]
fn a_single_thread_stays_single_unless_told_otherwise() {
    let here = only(&thread_name());
    for control_thread in [ControlThread::Auto, ControlThread::Shared] {
        assert_eq!(
            threads(&single(), control_thread),
            [here.clone(), here.clone()]
        );
    }
    assert_eq!(
        threads(&workers(), ControlThread::Shared),
        [only(THEIRS), only(THEIRS)]
    );
}

/// What a task on the thread holds is dropped with the thread.
#[test]
fn the_thread_ends_when_it_is_dropped_and_takes_its_tasks_along() {
    let thread = Thread::start().unwrap();
    let held = Arc::new(());
    let holding = Arc::clone(&held);
    drop(thread.handle().spawn(async move {
        std::future::pending::<()>().await;
        drop(holding);
    }));
    drop(thread);
    eventually(|| Arc::strong_count(&held) == 1);
}

#[test]
fn a_dropped_processor_leaves_nothing_behind() {
    let (hub, store) = (FakeEventHub::new(2), FlakyStore::new());
    let runtime = workers();
    let handler = handler_fn(async |_, _| Ok(()));
    let processor = builder(&hub, &store, "a").build(handler).unwrap();
    let mut watch = processor.status_watch();
    let handle: ProcessorHandle = runtime.block_on(async { processor.spawn() });
    eventually(|| hub.receivers("0") + hub.receivers("1") == 2);
    drop(handle);
    eventually(|| hub.receivers("0") + hub.receivers("1") == 0);
    // The last that knows of the processor is the watch.
    let end = async { while watch.changed().await.is_some() {} };
    let ended = async { timeout(PATIENCE, end).await };
    runtime.block_on(ended).unwrap();
}

/// A call of the application's own store or credential may panic: whoever waits for it gets the panic, as without the
/// thread.
#[test]
fn what_panics_on_the_thread_reaches_the_caller() {
    let (thread, place, runtime) = (Thread::start().unwrap(), Place::default(), workers());
    place.set(thread.handle());
    let calling = runtime.spawn(async move { place.run(async { panic!("on purpose") }).await });
    let error = runtime.block_on(calling).unwrap_err();
    assert!(error.is_panic());
    drop(thread);
}

fn eventually(mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}
