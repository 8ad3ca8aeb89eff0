//! `examples/consume` as each identity of azure_identity, with nothing changed in the libraries: the environment leads them to
//! an issuer of this process, and the event comes with the token of that. On Linux, where the environment can also say whom
//! TLS trusts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::program::{Credential, World, until_the_event};
use crate::support::tls_front::{Authority, TlsFront};
use crate::support::token_issuer::{Asked, TokenIssuer};

const TENANT: &str = "contoso";
const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const SECRET: &str = "canary-secret-of-the-application";
/// What an App Service, or a pod, proves itself with.
const PROOF: &str = "canary-proof-of-the-platform";
const RESOURCE: &str = "https://eventhubs.azure.net/";
const SCOPE: &str = "https://eventhubs.azure.net//.default";

/// An event hub with an event, an issuer of tokens, and a folder that is gone with them.
struct Place {
    world: World,
    issuer: TokenIssuer,
    folder: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Place {
    async fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("ehp-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let world = World::new(1, true).await;
        Self {
            issuer: TokenIssuer::start(Arc::clone(&world.emulator), |_| false).await,
            world,
            folder,
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs the program until it has the event. What the issuer was asked for meanwhile.
    async fn read_as(&self, identity: &str, environment: &[(&str, &str)]) -> Vec<Asked> {
        let mut command = self
            .world
            .consume(0, self.world.tcp(), &Credential::Identity);
        for name in [
            "HTTP_PROXY",
            "http_proxy",
            "IDENTITY_ENDPOINT",
            "MSI_ENDPOINT",
        ] {
            command.env_remove(name);
        }
        command
            .env("AZURE_CREDENTIAL", identity)
            .env("PROXY", "none")
            .envs(environment.iter().copied());
        let log = until_the_event(command).await;
        for secret in ["canary", "eyJ"] {
            let found = log.lines().find(|line| line.contains(secret));
            assert_eq!(found, None, "{secret}, {identity}");
        }
        let requests = self.world.emulator.amqp_requests();
        assert!(requests.tokens_accepted > 0 && requests.tokens_refused == 0);
        self.issuer.take()
    }

    /// The same as an application that Microsoft Entra ID knows, to which azure_identity speaks over https only.
    async fn read_as_application(&self, identity: &str, own: (&str, &str)) -> Asked {
        let authority = Authority::new();
        let front = TlsFront::start(self.issuer.addr, &authority, "localhost", None).await;
        let ca = self.write("ca.pem", &authority.pem());
        let host = format!("https://localhost:{}", front.port);
        let environment = [
            ("AZURE_AUTHORITY_HOST", &*host),
            ("SSL_CERT_FILE", ca.to_str().unwrap()),
            ("AZURE_TENANT_ID", TENANT),
            ("AZURE_CLIENT_ID", CLIENT),
            own,
        ];
        let asked = self.read_as(identity, &environment).await;
        let [asked] = &asked[..] else {
            panic!("{asked:?}");
        };
        assert_eq!(asked.of, format!("POST /{TENANT}/oauth2/v2.0/token"));
        assert_eq!(asked.parameters["client_id"], CLIENT);
        assert_eq!(asked.parameters["scope"], SCOPE);
        asked.clone()
    }
}

#[tokio::test]
async fn an_app_service_reads_as_the_identity_it_was_given() {
    let place = Place::new().await;
    let endpoint = format!("http://{}/msi/token", place.issuer.addr);
    let environment = [
        ("IDENTITY_ENDPOINT", &*endpoint),
        ("IDENTITY_HEADER", PROOF),
        ("AZURE_CLIENT_ID", CLIENT),
    ];
    let asked = place.read_as("managed", &environment).await;
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].of, "GET /msi/token");
    assert_eq!(asked[0].headers["x-identity-header"], PROOF);
    assert_eq!(asked[0].parameters["resource"], RESOURCE);
    assert_eq!(asked[0].parameters["client_id"], CLIENT);
}

/// The address is a constant, but a proxy in the environment gets the request: on a machine that has one, `NO_PROXY` has to
/// name the address.
#[tokio::test]
async fn a_virtual_machine_reads_as_its_own_identity() {
    let place = Place::new().await;
    let proxy = format!("http://{}", place.issuer.addr);
    let asked = place.read_as("managed", &[("http_proxy", &*proxy)]).await;
    assert_eq!(asked.len(), 1);
    let endpoint = "http://169.254.169.254/metadata/identity/oauth2/token";
    assert_eq!(asked[0].of, format!("GET {endpoint}"));
    assert_eq!(asked[0].headers["metadata"], "true");
    assert_eq!(asked[0].parameters["resource"], RESOURCE);
    assert!(!asked[0].parameters.contains_key("client_id"));
}

#[tokio::test]
async fn a_pod_reads_with_the_assertion_of_its_file() {
    let place = Place::new().await;
    let file = place.write("assertion", PROOF);
    let own = ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap());
    let asked = place.read_as_application("workload", own).await;
    assert_eq!(asked.parameters["client_assertion"], PROOF);
}

#[tokio::test]
async fn a_service_principal_reads_with_its_secret() {
    let place = Place::new().await;
    let own = ("AZURE_CLIENT_SECRET", SECRET);
    let asked = place.read_as_application("client-secret", own).await;
    assert_eq!(asked.parameters["client_secret"], SECRET);
}

#[tokio::test]
async fn a_developer_reads_as_who_is_logged_in_to_the_azure_cli() {
    let place = Place::new().await;
    let lifetime = Duration::from_secs(3600);
    let end = (SystemTime::now() + lifetime).duration_since(UNIX_EPOCH);
    let answer = serde_json::json!({
        "accessToken": place.world.emulator.issue_token(SCOPE, lifetime),
        "expires_on": end.unwrap().as_secs(),
        "tokenType": "Bearer",
    });
    let answer = place.write("answer", &answer.to_string());
    // Gives nothing to whoever asks in another way.
    let program = format!(
        "#!/bin/sh\n[ \"$*\" = 'account get-access-token -o json --scope {SCOPE}' ] && exec cat '{}'\nexit 2\n",
        answer.display()
    );
    let program = place.write("az", &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", place.folder.display());
    let asked = place.read_as("developer", &[("PATH", &path)]).await;
    assert!(asked.is_empty());
}
