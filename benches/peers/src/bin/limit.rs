//! No client: a socket for each partition that counts frames and looks into none. What it reads is what the emulator
//! gives, so a client that comes near to it is not what is measured.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../../rust/meter.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with programs of other workspaces"
)]
mod meter;
#[path = "../../../../crates/emulator/tests/raw/mod.rs"]
#[allow(clippy::unwrap_used, reason = "shared with tests")]
mod raw;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use meter::{Meter, setting};
use raw::Raw;

#[tokio::main]
async fn main() {
    let port = setting("AMQP_PORT").parse().expect("a port");
    let partitions = setting("PARTITIONS").parse().expect("a number");
    let events = setting("EVENTS").parse().expect("a number");
    let meter = Arc::new(Meter::start());
    for partition in 0..partitions {
        let meter = Arc::clone(&meter);
        std::thread::spawn(move || {
            if let Err(error) = read(
                SocketAddr::from(([127, 0, 0, 1], port)),
                partition,
                events,
                &meter,
            ) {
                eprintln!("partition {partition}: {error}");
                std::process::exit(1);
            }
        });
    }
    meter.report().await;
    std::future::pending().await
}

/// Reads the partition over and over: it would be through with it before the sample is.
fn read(address: SocketAddr, partition: usize, events: u64, meter: &Meter) -> io::Result<()> {
    let hub = setting("HUB");
    let source = format!("{hub}/ConsumerGroups/$Default/Partitions/{partition}");
    let mut client = Raw::connect(address)?;
    loop {
        client.attach_receiver(0, &source)?;
        client.grant(0, u32::MAX)?;
        let mut seen = 0;
        while seen < events {
            let count = client.count_transfers()?;
            meter.count(partition, count);
            seen += count;
        }
        client.detach(0)?;
        client.wait_for(0x16)?;
    }
}
