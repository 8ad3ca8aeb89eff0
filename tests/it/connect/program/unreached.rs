//! Nobody is there, or has no way on: that may pass, so it goes on trying, says so each time, and lets time pass between.

use std::time::Duration;

use tokio::net::TcpListener;

use super::{Credential, KEY, World, troubles};
use crate::support::tinyproxy::{Rules, Tinyproxy};

/// The waits before the second and the third attempt are about 0.8 and 1.6 s.
const AT_LEAST: Duration = Duration::from_millis(1200);

/// A port of this machine that nobody listens at.
async fn closed_port() -> u16 {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    nobody.local_addr().unwrap().port()
}

#[tokio::test]
async fn where_nobody_listens_each_attempt_is_told_and_the_next_one_waits() {
    let world = World::new(1, true).await;
    let (port, proxy) = (closed_port().await, closed_port().await);
    let through = format!("http://canary-user:canary-password@127.0.0.1:{proxy}");
    for transport in ["tcp", "websockets"] {
        for (way, address) in [
            ("none", format!("localhost:{port}: ")),
            (
                &through,
                format!("127.0.0.1:{proxy}: the proxy is not reached"),
            ),
        ] {
            let mut command = world.consume(0, port, &Credential::Key(KEY));
            command.env("TRANSPORT_TYPE", transport).env("PROXY", way);
            let told = troubles(command, 3).await;
            for (_, trouble) in &told {
                assert!(trouble.contains(&address), "{trouble}");
                assert!(trouble.contains("refused"), "{trouble}");
            }
            let apart = told[2].0 - told[0].0;
            assert!(apart >= AT_LEAST, "{told:?}");
        }
    }
}

#[tokio::test]
async fn where_a_proxy_does_not_get_through_each_attempt_is_told_and_the_next_one_waits() {
    let world = World::new(1, true).await;
    let port = closed_port().await;
    let Some(proxy) = Tinyproxy::start(Rules::default()).await else {
        return;
    };
    for transport in ["tcp", "websockets"] {
        let mut command = world.consume(0, port, &Credential::Key(KEY));
        command
            .env("TRANSPORT_TYPE", transport)
            .env("PROXY", proxy.address());
        let before = proxy.requests().len();
        let told = troubles(command, 3).await;
        let address = format!("the proxy 127.0.0.1:{} did not get through", proxy.port);
        assert!(
            told.iter().all(|(_, trouble)| trouble.contains(&address)),
            "{told:?}"
        );
        assert!(told[2].0 - told[0].0 >= AT_LEAST, "{told:?}");
        // One for each, and none but the next, on which it may have been killed.
        let asked = proxy.requests().len() - before;
        assert!((3..=4).contains(&asked), "{asked}");
    }
}
