//! A geo-replicated namespace: offsets that are text, and what is left of them after a fail-over.

use super::*;

#[tokio::test]
async fn an_offset_that_is_no_number_is_good_until_the_namespace_fails_over() {
    let emulator = Emulator::builder()
        .with_hub(HUB, 1)
        .with_geo_replication(true)
        .start()
        .await
        .unwrap();
    let client = client(&emulator);
    send(&emulator, "0", 0..3);
    let mut receiver = client
        .open_receiver(at("0", EventPosition::Earliest))
        .await
        .unwrap();
    let events = receive(&mut receiver, 2).await;
    let offset = events[0].offset().clone();
    assert!(offset.as_str().parse::<u64>().is_err(), "{offset:?}");
    let after = |offset: &Offset| {
        let offset = offset.clone();
        let inclusive = false;
        at("0", EventPosition::Offset { offset, inclusive })
    };
    receiver.close().await;
    let mut receiver = client.open_receiver(after(&offset)).await.unwrap();
    assert_eq!(receive(&mut receiver, 2).await[0].sequence_number(), 1);

    emulator.faults().fail_over().unwrap();
    let error = error_of(&mut receiver).await;
    assert!(error.is_transient(), "{error}");
    // The offset is of the region that is gone; no retry makes it good.
    let error = open_error(&client, after(&offset)).await;
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error}");
    assert!(!error.is_transient());
    let sequence_number = events[0].sequence_number();
    let mut receiver = client
        .open_receiver(at(
            "0",
            EventPosition::SequenceNumber {
                sequence_number,
                inclusive: false,
            },
        ))
        .await
        .unwrap();
    let event = &receive(&mut receiver, 1).await[0];
    assert_eq!(event.sequence_number(), 1);
    assert_ne!(*event.offset(), *events[1].offset());

    let number = Offset::from("4294967296");
    let error = open_error(&client, after(&number)).await;
    assert_eq!(error.kind(), Kind::InvalidPosition, "{error}");
}
