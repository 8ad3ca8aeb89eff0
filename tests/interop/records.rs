//! Records that one side writes and the other reads and changes.

use std::time::Duration;

use eventhubs_processor::checkpoint::{WriteCondition, WriteOutcome, Written};
use eventhubs_processor::{
    BlobCheckpointStore, Checkpoint, CheckpointStore as _, ETag, GroupScope, Offset, OwnerId,
    Ownership, PartitionId,
};
use serde_json::Value;

use crate::setup::{Tools, within};

/// Names in the spelling of a user who does not know that they are folded.
const SHOUTED: [&str; 3] = [
    "Contoso.ServiceBus.Windows.NET",
    "Telemetry-Hub",
    "$Default",
];
const FOLDED: [&str; 3] = [
    "contoso.servicebus.windows.net",
    "telemetry-hub",
    "$default",
];

struct Records {
    tools: Tools,
    container: String,
    store: BlobCheckpointStore,
    scope: GroupScope,
    python_names: [&'static str; 3],
}

impl Records {
    async fn new(tools: Tools, names: [&str; 3], python_names: [&'static str; 3]) -> Self {
        let container = tools.create_container().await;
        Self {
            store: tools.store(&container),
            scope: GroupScope::new(names[0], names[1], names[2]),
            container,
            tools,
            python_names,
        }
    }

    async fn python(&self, command: &str, arguments: &[&str]) -> Value {
        let all = [&[command][..], &self.python_names, arguments].concat();
        self.tools.store_py(&self.container, &all).await
    }

    async fn python_ownership(&self) -> Vec<Value> {
        self.python("list-ownership", &[]).await["ownership"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// The records that Python's claim left to it.
    async fn python_claims(&self, partition: &str, owner: &str, etag: Option<&str>) -> usize {
        let option = etag.map(|etag| format!("--etag={etag}"));
        let mut arguments = vec![partition, owner];
        arguments.extend(option.as_deref());
        self.python("claim", &arguments).await["claimed"]
            .as_array()
            .unwrap()
            .len()
    }

    async fn claim(
        &self,
        partition: &str,
        owner: Option<&str>,
        condition: WriteCondition,
    ) -> Option<Written> {
        let partition = PartitionId::new(partition);
        let owner = owner.map(OwnerId::new);
        let outcome =
            self.store
                .claim_ownership(&self.scope, &partition, owner.as_ref(), &condition);
        written(outcome.await.unwrap())
    }

    async fn ownership(&self, partition: &str) -> Ownership {
        let listing = self.store.list_ownership(&self.scope).await.unwrap();
        let is_it = |record: &Ownership| record.partition_id.as_str() == partition;
        listing.ownerships.into_iter().find(is_it).unwrap()
    }

    async fn owner(&self, partition: &str) -> Option<String> {
        self.ownership(partition)
            .await
            .owner_id
            .map(|owner| owner.as_str().to_owned())
    }

    async fn update_checkpoint(
        &self,
        partition: &str,
        offset: &str,
        number: i64,
        condition: WriteCondition,
    ) -> Option<Written> {
        let checkpoint = Checkpoint {
            partition_id: PartitionId::new(partition),
            offset: Some(Offset::new(offset)),
            sequence_number: Some(number),
            client_identifier: None,
        };
        let outcome = self
            .store
            .update_checkpoint(&self.scope, &checkpoint, &condition);
        written(outcome.await.unwrap())
    }

    async fn checkpoint(&self, partition: &str) -> (String, i64, ETag) {
        let partition = PartitionId::new(partition);
        let stored = self
            .store
            .checkpoint(&self.scope, &partition)
            .await
            .unwrap()
            .unwrap();
        let Checkpoint {
            offset,
            sequence_number,
            ..
        } = stored.checkpoint;
        (
            offset.unwrap().as_str().to_owned(),
            sequence_number.unwrap(),
            stored.etag.unwrap(),
        )
    }
}

fn written(outcome: WriteOutcome) -> Option<Written> {
    match outcome {
        WriteOutcome::Written(written) => Some(written),
        WriteOutcome::Lost => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ownership_goes_back_and_forth_between_the_stores() {
    let Some(tools) = Tools::from_env("ownership_goes_back_and_forth_between_the_stores") else {
        return;
    };
    within(Duration::from_secs(240), async {
        ownership(Records::new(tools, SHOUTED, FOLDED).await).await;
    })
    .await;
}

async fn ownership(records: Records) {
    // Ours creates; Python reads, and takes with what it read.
    let created = records
        .claim("0", Some("ours"), WriteCondition::Absent)
        .await
        .unwrap();
    let listed = records.python_ownership().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (&listed[0]["partition_id"], &listed[0]["owner_id"]),
        (&"0".into(), &"ours".into())
    );
    assert_eq!(records.python_claims("0", "python", None).await, 1);
    assert_eq!(records.owner("0").await.as_deref(), Some("python"));

    // Ours loses with the version it knew, and takes with the new one; then Python loses likewise.
    let python_has = records.ownership("0").await;
    assert_eq!(
        records
            .claim("0", Some("ours"), WriteCondition::Matches(created.etag))
            .await,
        None
    );
    let matches = WriteCondition::Matches(python_has.etag.clone());
    let stolen = records.claim("0", Some("ours"), matches).await.unwrap();
    assert_eq!(
        records
            .python_claims("0", "python", Some(python_has.etag.as_str()))
            .await,
        0
    );
    assert_eq!(records.owner("0").await.as_deref(), Some("ours"));

    // What ours gives back is free for Python, and the other way round.
    records
        .claim("0", None, WriteCondition::Matches(stolen.etag))
        .await
        .unwrap();
    let listed = records.python_ownership().await;
    assert!(
        listed[0]["owner_id"].is_null() || listed[0]["owner_id"] == "",
        "{listed:?}"
    );
    assert_eq!(records.python_claims("0", "python", None).await, 1);
    assert_eq!(records.python_claims("0", "", None).await, 1);
    let free = records.ownership("0").await;
    assert_eq!(free.owner_id, None);
    records
        .claim("0", Some("ours"), WriteCondition::Matches(free.etag))
        .await
        .unwrap();

    // A record that Python created is not created again.
    assert_eq!(records.python_claims("1", "python", None).await, 1);
    assert_eq!(
        records
            .claim("1", Some("ours"), WriteCondition::Absent)
            .await,
        None
    );
    assert_eq!(records.owner("1").await.as_deref(), Some("python"));

    // Whatever an owner is called. Age counts by the same clock.
    for (partition, owner) in [
        ("2", "00112233-4455-6677-8899-aabbccddeeff"),
        ("3", "Host/7 (blue); a=b&c %41 ~!"),
        ("10", &"x".repeat(128)),
    ] {
        records
            .claim(partition, Some(owner), WriteCondition::Absent)
            .await
            .unwrap();
        let listed = records.python_ownership().await;
        let seen = listed
            .iter()
            .find(|record| record["partition_id"] == partition)
            .unwrap();
        assert_eq!(seen["owner_id"], owner);
        assert_eq!(
            records
                .python_claims(partition, &owner.to_uppercase(), None)
                .await,
            1
        );
        let taken = records.ownership(partition).await;
        assert_eq!(taken.owner_id.unwrap().as_str(), owner.to_uppercase());
        let modified = taken
            .last_modified
            .unwrap()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(modified.as_secs_f64() >= seen["last_modified_time"].as_f64().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_go_back_and_forth_between_the_stores() {
    let Some(tools) = Tools::from_env("checkpoints_go_back_and_forth_between_the_stores") else {
        return;
    };
    within(Duration::from_secs(240), async {
        checkpoints(Records::new(tools, FOLDED, SHOUTED).await).await;
    })
    .await;
}

async fn checkpoints(records: Records) {
    let created = records
        .update_checkpoint("0", "4294967296", 41, WriteCondition::Absent)
        .await
        .unwrap();
    let listed = records.python("list-checkpoints", &[]).await;
    let expected = serde_json::json!([{
        "fully_qualified_namespace": SHOUTED[0],
        "eventhub_name": SHOUTED[1],
        "consumer_group": SHOUTED[2],
        "partition_id": "0",
        "offset": "4294967296",
        "sequence_number": 41,
    }]);
    assert_eq!(listed["checkpoints"], expected);

    // Python goes on without asking for the version; ours notices.
    records
        .python("update-checkpoint", &["0", "4294967400", "42"])
        .await;
    let (offset, number, etag) = records.checkpoint("0").await;
    assert_eq!((offset.as_str(), number), ("4294967400", 42));
    let stale = WriteCondition::Matches(created.etag);
    assert_eq!(
        records
            .update_checkpoint("0", "4294967300", 41, stale)
            .await,
        None
    );
    records
        .update_checkpoint("0", "4294967500", 43, WriteCondition::Matches(etag))
        .await
        .unwrap();

    // Python's own record, with the opaque offsets of a geo-replicated namespace.
    records
        .python(
            "update-checkpoint",
            &["1", "3:1152921504606846976:7", "9223372036854775807"],
        )
        .await;
    let (offset, number, etag) = records.checkpoint("1").await;
    assert_eq!(
        (offset.as_str(), number),
        ("3:1152921504606846976:7", i64::MAX)
    );
    assert_eq!(
        records
            .update_checkpoint("1", "1", 1, WriteCondition::Absent)
            .await,
        None
    );
    records
        .update_checkpoint("1", "4:0:0", 0, WriteCondition::Matches(etag))
        .await
        .unwrap();

    let listed = records.python("list-checkpoints", &[]).await;
    let positions: Vec<_> = listed["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (
                record["offset"].as_str().unwrap(),
                record["sequence_number"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(positions, [("4294967500", 43), ("4:0:0", 0)]);
    let ours = records
        .store
        .list_checkpoints(&records.scope)
        .await
        .unwrap();
    assert_eq!(ours.len(), 2);
}

/// Records that stop Python, and such that it misreads, are none of them once ours has written them.
#[tokio::test(flavor = "multi_thread")]
async fn what_ours_writes_over_odd_records_python_reads() {
    let Some(tools) = Tools::from_env("what_ours_writes_over_odd_records_python_reads") else {
        return;
    };
    within(Duration::from_secs(300), async {
        odd_records(Records::new(tools, SHOUTED, FOLDED).await).await;
    })
    .await;
}

async fn odd_records(records: Records) {
    let odd = serde_json::json!({
        "ownership/0": {},
        "ownership/1": {"other": "x"},
        "ownership/2": {"OwnerId": "java"},
        "ownership/3": {"ownerid": ""},
        "checkpoint/0": {"offset": "42"},
        "checkpoint/1": {"offset": "42", "sequencenumber": ""},
        "checkpoint/2": {"offset": "42", "sequencenumber": "abc"},
        "checkpoint/3": {},
        "checkpoint/4": {"offset": "no offset", "sequencenumber": "7"},
        "checkpoint/5": {"offset": "", "sequencenumber": "7"},
    });
    records.python("put", &[&odd.to_string()]).await;
    for partition in ["0", "1", "2", "3"] {
        let listed = WriteCondition::Matches(records.ownership(partition).await.etag);
        let claimed = records.claim(partition, Some("ours"), listed).await;
        if partition == "1" {
            let claimed = WriteCondition::Matches(claimed.unwrap().etag);
            records.claim(partition, None, claimed).await.unwrap();
        }
    }
    let owners: Vec<_> = records
        .python_ownership()
        .await
        .iter()
        .map(|record| record["owner_id"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(owners, ["ours", "", "ours", "ours"]);

    for partition in ["0", "1", "2", "3", "4", "5"] {
        let condition = WriteCondition::Unconditional;
        let written = records.update_checkpoint(partition, "4294967400", 8, condition);
        written.await.unwrap();
    }
    let listed = records.python("list-checkpoints", &[]).await;
    let positions: Vec<_> = listed["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (
                record["offset"].as_str().unwrap(),
                record["sequence_number"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(positions, [("4294967400", 8); 6]);
}
