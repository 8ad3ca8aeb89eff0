//! `$cbs` and `$management`.

use fe2o3_amqp::{Delivery, Receiver, Sender};
use fe2o3_amqp_cbs::client::CbsClient;
use fe2o3_amqp_cbs::token::CbsToken;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Message, Properties};
use fe2o3_amqp_types::primitives::{Array, OrderedMap, SimpleValue, Value};
use tokio::time::timeout;

use super::support::{Client, PATIENCE, emulator};

#[tokio::test]
async fn put_token_answers_as_the_fault_says_and_otherwise_accepts() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator).await;
    let mut cbs = CbsClient::attach(&mut client.session).await.unwrap();
    let token = || CbsToken::new("anything", "servicebus.windows.net:sastoken", None);
    cbs.put_token("sb://host/hub", token()).await.unwrap();
    emulator.faults().answer_cbs(401, 1);
    let error = cbs.put_token("sb://host/hub", token()).await.unwrap_err();
    assert!(format!("{error:?}").contains("401"), "{error:?}");
    cbs.put_token("sb://host/hub", token()).await.unwrap();
}

#[tokio::test]
async fn management_describes_hub_and_partitions() {
    let emulator = emulator().await;
    let sent = emulator.send("hub", Some("3"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    let hub = read(&mut client, "com.microsoft:eventhub", None).await;
    let ids = Array(
        ["0", "1", "2", "3"]
            .map(|id| Value::String(id.to_owned()))
            .to_vec(),
    );
    assert_eq!(hub["partition_ids"], Value::Array(ids));
    assert_eq!(hub["name"], Value::String("hub".to_owned()));
    assert_eq!(hub["partition_count"], Value::Int(4));
    let partition = read(&mut client, "com.microsoft:partition", Some("3")).await;
    assert_eq!(partition["last_enqueued_sequence_number"], Value::Long(0));
    assert_eq!(
        partition["last_enqueued_offset"],
        Value::String(sent.offset)
    );
    assert_eq!(partition["is_partition_empty"], Value::Bool(false));
}

/// One READ through plain links, so that the reply is seen as it is.
pub(crate) async fn read(
    client: &mut Client,
    kind: &str,
    partition: Option<&str>,
) -> std::collections::BTreeMap<String, Value> {
    let mut sender = Sender::attach(&mut client.session, format!("s{kind}"), "$management")
        .await
        .unwrap();
    let mut receiver = Receiver::attach(&mut client.session, format!("r{kind}"), "$management")
        .await
        .unwrap();
    let mut properties = ApplicationProperties::builder()
        .insert("operation", "READ")
        .insert("type", kind)
        .insert("name", "HUB");
    if let Some(id) = partition {
        properties = properties.insert("partition", id);
    }
    let request = Message::builder()
        .properties(Properties::builder().message_id(77_u64).build())
        .application_properties(properties.build())
        .value(Value::Null)
        .build();
    sender.send(request).await.unwrap();
    let reply: Delivery<AmqpValue<OrderedMap<String, Value>>> =
        timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap();
    let status = reply.message().application_properties.as_ref().unwrap();
    assert_eq!(status.0.get("status-code"), Some(&SimpleValue::Int(200)));
    let id = reply
        .message()
        .properties
        .as_ref()
        .unwrap()
        .correlation_id
        .clone();
    assert_eq!(format!("{id:?}"), "Some(Ulong(77))");
    let map = reply.into_body().0.into_iter().collect();
    sender.close().await.unwrap();
    receiver.close().await.unwrap();
    map
}
