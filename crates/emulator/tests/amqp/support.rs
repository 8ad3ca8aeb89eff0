//! A client of fe2o3-amqp, as much of it as the tests need.

use std::time::Duration;

use eventhubs_emulator::Emulator;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Delivery, Receiver, Sender, Session};
use fe2o3_amqp_types::definitions::{Fields, SenderSettleMode};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{Body, Data, Message, Source};
use fe2o3_amqp_types::primitives::{OrderedMap, Symbol, Value};
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Client {
    pub(crate) connection: ConnectionHandle<()>,
    pub(crate) session: SessionHandle<()>,
}

impl Client {
    pub(crate) async fn connect(emulator: &Emulator) -> Self {
        let url = format!("amqp://{}", emulator.amqp_addr());
        let mut connection = Connection::builder()
            .container_id("test")
            .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
            .open(&*url)
            .await
            .unwrap();
        let session = Session::begin(&mut connection).await.unwrap();
        Self {
            connection,
            session,
        }
    }

    pub(crate) async fn receiver(&mut self, partition: &str, options: Reading<'_>) -> Receiver {
        self.try_receiver(partition, options).await.unwrap()
    }

    pub(crate) async fn try_receiver(
        &mut self,
        partition: &str,
        options: Reading<'_>,
    ) -> Result<Receiver, fe2o3_amqp::link::ReceiverAttachError> {
        let address = format!("hub/ConsumerGroups/$Default/Partitions/{partition}");
        let mut properties = Fields::new();
        if let Some(epoch) = options.epoch {
            properties.insert(Symbol::from("com.microsoft:epoch"), Value::Long(epoch));
        }
        let source = Source::builder()
            .address(address)
            .add_to_filter(Symbol::from(SELECTOR), selector(options.position))
            .build();
        let mut builder = Receiver::builder()
            .name(options.name)
            .source(source)
            .sender_settle_mode(SenderSettleMode::Settled)
            .properties(properties)
            .credit_mode(options.credit);
        if options.metrics {
            let metric = Symbol::from("com.microsoft:enable-receiver-runtime-metric");
            builder = builder.add_desired_capabilities(metric);
        }
        if options.geo {
            builder =
                builder.add_desired_capabilities(Symbol::from("com.microsoft:georeplication"));
        }
        builder.attach(&mut self.session).await
    }

    /// The error of an attach that is refused, on a session of its own: after a refusal the client
    /// may send its detach twice, and the second would meet the next link on the handle.
    pub(crate) async fn refusal(&mut self, partition: &str, options: Reading<'_>) -> String {
        let fresh = Session::begin(&mut self.connection).await.unwrap();
        let usual = std::mem::replace(&mut self.session, fresh);
        let error = self.try_receiver(partition, options).await.unwrap_err();
        let _used = std::mem::replace(&mut self.session, usual);
        format!("{error:?}")
    }

    pub(crate) async fn sender(&mut self, address: &str) -> Sender {
        Sender::attach(&mut self.session, "sender", address)
            .await
            .unwrap()
    }

    pub(crate) async fn close(mut self) {
        self.session.end().await.unwrap();
        self.connection.close().await.unwrap();
    }
}

pub(crate) const SELECTOR: &str = "apache.org:selector-filter:string";

pub(crate) fn selector(position: &str) -> Described<Value> {
    Described {
        descriptor: Descriptor::Name(Symbol::from(SELECTOR)),
        value: Value::String(format!("amqp.annotation.{position}")),
    }
}

pub(crate) struct Reading<'a> {
    pub(crate) name: &'static str,
    pub(crate) position: &'a str,
    pub(crate) epoch: Option<i64>,
    pub(crate) credit: CreditMode,
    pub(crate) metrics: bool,
    pub(crate) geo: bool,
}

impl Default for Reading<'_> {
    fn default() -> Self {
        Self {
            name: "receiver",
            position: "x-opt-offset > '-1'",
            epoch: None,
            credit: CreditMode::Auto(100),
            metrics: false,
            geo: false,
        }
    }
}

pub(crate) async fn emulator() -> Emulator {
    Emulator::builder()
        .with_hub("hub", 4)
        .start()
        .await
        .unwrap()
}

pub(crate) type Received = Delivery<Body<Value>>;

pub(crate) async fn receive(receiver: &mut Receiver) -> Received {
    timeout(PATIENCE, receiver.recv())
        .await
        .expect("an event in time")
        .unwrap()
}

pub(crate) async fn is_silent(receiver: &mut Receiver) -> bool {
    let wait = Duration::from_millis(150);
    timeout(wait, receiver.recv::<Body<Value>>()).await.is_err()
}

pub(crate) fn text(delivery: &Received) -> String {
    match delivery.body() {
        Body::Data(batch) => {
            let bytes: Vec<u8> = batch.iter().flat_map(|data| data.0.to_vec()).collect();
            String::from_utf8(bytes).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn annotation<'a>(delivery: &'a Received, name: &str) -> &'a Value {
    let annotations = delivery.message().message_annotations.as_ref().unwrap();
    lookup(&annotations.0, name).unwrap()
}

pub(crate) fn lookup<'a>(map: &'a OrderedMap<OwnedKey, Value>, name: &str) -> Option<&'a Value> {
    let key = OwnedKey::Symbol(Symbol::from(name));
    map.iter().find(|(k, _)| **k == key).map(|(_, value)| value)
}

pub(crate) fn data(text: &str) -> Message<Data> {
    Message::builder()
        .data(Data(text.as_bytes().to_vec().into()))
        .build()
}
