//! Configuration files, consumer groups, partitions added later, throughput units.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod raw;

use std::time::{Duration, Instant};

use eventhubs_emulator::{ConfigError, Emulator, EmulatorError, Event};

use raw::{DISPOSITION, FLOW, Raw, TRANSFER};

const DETACH: u8 = 0x16;

const CONFIG: &str = r#"{
    "UserConfig": {
        "NamespaceConfig": [{
            "Type": "EventHub",
            "Name": "emulatorNs1",
            "Entities": [{
                "Name": "eh1",
                "PartitionCount": "3",
                "ConsumerGroups": [{ "Name": "cg1" }],
                "Unheard": { "of": true }
            }]
        }],
        "LoggingConfig": { "Type": "File" }
    }
}"#;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Whether a receiver stays attached.
async fn may_receive(emulator: &Emulator, group: &str, partition: u32) -> bool {
    let address = emulator.amqp_addr();
    let source = format!("eh1/ConsumerGroups/{group}/Partitions/{partition}");
    blocking(move || {
        let mut client = Raw::connect(address).unwrap();
        client.attach_receiver(0, &source).unwrap();
        client.grant(0, 1).unwrap();
        client.patience(Duration::from_millis(300)).unwrap();
        client.wait_for(DETACH).is_err()
    })
    .await
}

#[tokio::test]
async fn a_config_of_the_official_emulator_gives_hubs_and_groups() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("Config.json");
    std::fs::write(&path, CONFIG).unwrap();
    let builder = Emulator::builder().with_config_file(&path).unwrap();
    let strict = builder
        .clone()
        .with_strict_groups(true)
        .start()
        .await
        .unwrap();
    assert!(may_receive(&strict, "cg1", 2).await);
    assert!(may_receive(&strict, "$Default", 0).await);
    assert!(!may_receive(&strict, "cg2", 0).await);
    strict.create_consumer_group("eh1", "cg2").unwrap();
    assert!(may_receive(&strict, "CG2", 0).await);
    assert_eq!(
        strict.create_consumer_group("eh1", "a/b"),
        Err(EmulatorError::InvalidGroupName("a/b".to_owned()))
    );

    let lenient = builder.start().await.unwrap();
    assert!(may_receive(&lenient, "any", 0).await);
    assert!(matches!(
        Emulator::builder().with_config_file(root.path().join("none.json")),
        Err(ConfigError::Io { .. })
    ));
}

#[tokio::test]
async fn a_partition_added_while_running_can_be_used_at_once() {
    let emulator = Emulator::builder()
        .with_hub("eh1", 1)
        .start()
        .await
        .unwrap();
    assert!(!may_receive(&emulator, "$Default", 1).await);
    emulator.add_partitions("eh1", 1).unwrap();
    assert!(may_receive(&emulator, "$Default", 1).await);
    emulator.send("eh1", Some("1"), "x").unwrap();
    let too_many = emulator.add_partitions("eh1", 2000);
    assert_eq!(too_many, Err(EmulatorError::InvalidPartitionCount(2000)));
}

#[tokio::test]
async fn throughput_units_refuse_what_comes_and_hold_back_what_goes() {
    let emulator = Emulator::builder()
        .with_hub("eh1", 1)
        .with_throughput_units(1)
        .start()
        .await
        .unwrap();
    let address = emulator.amqp_addr();
    blocking(move || {
        let mut client = Raw::connect(address).unwrap();
        client.attach_sender(0, "eh1/Partitions/0").unwrap();
        client.wait_for(FLOW).unwrap();
        // Three seconds' worth at once: the first fills the allowance, the rest is too much.
        let body = vec![b'x'; 50_000];
        for id in 0..60 {
            client.send(&raw::transfer(0, id, &body)).unwrap();
        }
        let mut outcomes = Vec::new();
        while outcomes.len() < 60 {
            let (code, frame) = client.next().unwrap();
            if code == DISPOSITION {
                let fields = raw::numbers(frame);
                let (first, last) = (fields[1].unwrap(), fields[2].unwrap());
                let busy = b"com.microsoft:server-busy";
                let is_busy = frame.windows(busy.len()).any(|window| window == busy);
                outcomes.extend((first..=last).map(|_| is_busy));
            }
        }
        let refused = outcomes.iter().filter(|is_busy| **is_busy).count();
        assert!((20..=40).contains(&refused), "{refused}");
        assert!(!outcomes[0] && outcomes[59]);
    })
    .await;

    // Events put in by a test are not throttled; two seconds' worth take more than one.
    for _ in 0..40 {
        emulator
            .send("eh1", Some("0"), Event::new(vec![b'x'; 100_000]))
            .unwrap();
    }
    blocking(move || {
        let mut client = Raw::connect(address).unwrap();
        let source = "eh1/ConsumerGroups/$Default/Partitions/0";
        client.attach_receiver(0, source).unwrap();
        let start = Instant::now();
        client.grant(0, 1000).unwrap();
        let mut bytes = 0;
        while bytes < 4_500_000 {
            if let (TRANSFER, transfer) = client.next().unwrap() {
                bytes += transfer.len();
            }
        }
        let took = start.elapsed();
        assert!(took > Duration::from_secs(1), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    })
    .await;
}

/// Both ends of every connection are in this process.
fn raise_limit() {
    #[cfg(unix)]
    rlimit::increase_nofile_limit(8192).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_receivers_are_attached_at_once() {
    const RECEIVERS: u32 = 1000;
    raise_limit();
    let emulator = Emulator::builder()
        .with_hub("eh1", RECEIVERS)
        .start()
        .await
        .unwrap();
    let address = emulator.amqp_addr();
    let mut clients = blocking(move || {
        let attach = |partition| {
            let mut client = Raw::connect(address).unwrap();
            let source = format!("eh1/ConsumerGroups/$Default/Partitions/{partition}");
            client.attach_receiver(0, &source).unwrap();
            client.grant(0, 300).unwrap();
            client
        };
        (0..RECEIVERS).map(attach).collect::<Vec<_>>()
    })
    .await;
    let status = emulator.status();
    assert_eq!(status.connections, 1000);
    assert!(status.hubs[0].partitions.iter().all(|p| p.receivers == 1));
    for partition in 0..RECEIVERS {
        let partition = partition.to_string();
        emulator.send("eh1", Some(&partition), "event").unwrap();
    }
    blocking(move || {
        for client in &mut clients {
            client.wait_for(TRANSFER).unwrap();
        }
    })
    .await;
}

/// Of this process.
#[cfg(target_os = "linux")]
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_leave_nothing_behind() {
    const ROUNDS: usize = 10_000;
    raise_limit();
    let emulator = Emulator::builder()
        .with_hub("eh1", 1)
        .start()
        .await
        .unwrap();
    let address = emulator.amqp_addr();
    blocking(move || {
        for round in 0..ROUNDS {
            let mut client = Raw::connect(address).unwrap();
            let source = "eh1/ConsumerGroups/$Default/Partitions/0";
            client.attach_receiver(0, source).unwrap();
            // Some say good-bye and some do not.
            if round % 2 == 0 {
                client.close().unwrap();
            }
        }
    })
    .await;
    let ended = async {
        while emulator.connection_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
    assert_eq!(emulator.receiver_count("eh1", "0"), Ok(0));
    // Other tests of this binary have theirs open meanwhile: some thousands, and never ten.
    let open = open_files();
    assert!(open < 8000, "{open}");
}
