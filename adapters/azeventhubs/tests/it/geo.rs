//! A geo-replicated namespace: offsets that azeventhubs cannot read, and the service does not take from it. So whatever is
//! resumed here is resumed by number.

use eventhubs_processor::error::TransportErrorKind as Kind;
use eventhubs_processor::{EventPosition, Transport};

use crate::processors::{Log, noting, processor};
use crate::world::{Factory, at, builder, eventually, numbers, receive, send, transport};

#[tokio::test]
async fn offsets_lead_nowhere_numbers_do_and_properties_cannot_be_read() {
    let emulator = builder(1).with_geo_replication(true).start().await.unwrap();
    send(&emulator, 1, 4);
    let adapter = transport(&emulator).await;
    let mut options = at("0", EventPosition::sequence_number(0));
    options.track_last_enqueued_event_properties = true;
    let mut receiver = adapter.open_receiver(options).await.unwrap();
    let event = receive(&mut receiver, 1).await;
    assert_eq!(event[0].last_enqueued().unwrap().sequence_number, 3);
    let offset = event[0].offset().clone();
    assert!(offset.as_str().parse::<i64>().is_err());
    let mut options = at("0", EventPosition::offset(offset));
    let error = adapter.open_receiver(options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error:?}");
    options.after_sequence_number = Some(1);
    let mut receiver = adapter.open_receiver(options).await.unwrap();
    assert_eq!(numbers(&receive(&mut receiver, 2).await), [2, 3]);
    // Hence no "latest", which a processor turns into a number.
    let error = adapter.partition_properties(&"0".into()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected, "{error:?}");
    adapter.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_goes_on_after_a_loss_a_fail_over_and_a_restart() {
    let emulator = builder(2)
        .with_container("checkpoints")
        .with_geo_replication(true)
        .start()
        .await
        .unwrap();
    let factory = Factory::new(&emulator);
    let log = Log::default();
    let run = async || {
        processor(&emulator, factory.connect().await.unwrap())
            .build(noting(&log))
            .unwrap()
            .spawn()
    };
    let sent_and_seen = async |total| {
        send(&emulator, 2, 25);
        eventually(|| log.total() >= total).await;
    };
    let handle = run().await;
    sent_and_seen(50).await;
    emulator.faults().drop_connections();
    sent_and_seen(100).await;
    emulator.faults().fail_over().unwrap();
    sent_and_seen(150).await;
    handle.shutdown().await.unwrap();
    let handle = run().await;
    sent_and_seen(200).await;
    handle.shutdown().await.unwrap();
    for (partition, seen) in log.all() {
        assert_eq!(seen, Vec::from_iter(0..100), "partition {partition}");
    }
}
