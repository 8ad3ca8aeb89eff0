//! The emulator in a process of its own, with so many events in every partition that no client reads them all. Prints a
//! line when they are there, and ends with its input.

#![allow(clippy::print_stdout, reason = "what it is for")]

use std::error::Error;
use std::io::Read as _;
use std::path::PathBuf;

use clap::Parser;
use eventhubs_emulator::{Emulator, Event};

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    hub: String,
    #[arg(long)]
    partitions: u32,
    /// Bytes of a body.
    #[arg(long)]
    size: usize,
    /// Events in each partition.
    #[arg(long)]
    events: u64,
    /// Different partition keys; 0 is none.
    #[arg(long)]
    keys: u64,
    /// Where the certificate goes that clients over TLS have to trust.
    #[arg(long)]
    ca_file: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let emulator = Emulator::builder()
        .with_hub(&arguments.hub, arguments.partitions)
        .with_retention(usize::MAX, usize::MAX)
        .with_memory_budget(usize::MAX)
        .with_tls_port(0)
        .start()
        .await?;
    let pem = emulator.ca_certificate_pem().ok_or("no certificate")?;
    std::fs::write(&arguments.ca_file, pem)?;
    for partition in 0..arguments.partitions {
        let partition = partition.to_string();
        for number in 0..arguments.events {
            let mut event = Event::new(vec![b'x'; arguments.size]);
            if arguments.keys > 0 {
                event =
                    event.with_partition_key(format!("key-{}", scattered(number) % arguments.keys));
            }
            emulator.send(&arguments.hub, Some(&partition), event)?;
        }
    }
    let tls = emulator.tls_addr().ok_or("no TLS")?;
    println!(
        r#"{{"amqp_port":{},"tls_port":{}}}"#,
        emulator.amqp_addr().port(),
        tls.port()
    );
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await??;
    Ok(())
}

/// Without an order, but the same each time: the keys of real events do not take turns. (A step of SplitMix64.)
fn scattered(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
