//! How a client of Event Hubs says who it is, and the connection string that says it in one line.

use std::fmt;
use std::sync::Arc;

use super::pairs::{self, ConnectionStringError};
use super::{NamedKeyCredential, Secret, SharedAccessSignature, SignatureSource, TokenCredential};
use crate::error::BoxError;

/// What proves to Event Hubs who we are. Never prints a secret.
#[derive(Clone)]
pub struct EventHubsCredential(pub(crate) CredentialKind);

#[derive(Clone)]
pub(crate) enum CredentialKind {
    /// A named key: signatures are minted from it, one per entity.
    SharedAccessKey(NamedKeyCredential),
    /// A signature somebody else minted. It cannot be renewed.
    SharedAccessSignature(SharedAccessSignature),
    /// Signatures that somebody else mints whenever they are needed.
    RenewableSignature(SignatureSource),
    /// Bearer tokens from elsewhere.
    Token(Arc<dyn TokenCredential>),
}

impl EventHubsCredential {
    /// A shared access policy and its key. Signatures are minted per consumer group, live an hour and are
    /// renewed after 72 to 80 % of that; the policy needs the `Listen` right only.
    pub fn shared_access_key(policy_name: impl Into<String>, key: impl Into<Secret>) -> Self {
        Self::named_key(NamedKeyCredential::new(policy_name, key))
    }

    /// The same, with a key that can be replaced while clients use it.
    #[must_use]
    pub fn named_key(key: NamedKeyCredential) -> Self {
        Self(CredentialKind::SharedAccessKey(key))
    }

    /// A signature that was minted elsewhere, `SharedAccessSignature sr=…&sig=…&se=…&skn=…`. Nobody can renew
    /// it: after its expiry every operation fails with
    /// [`Unauthorized`](crate::error::TransportErrorKind::Unauthorized).
    ///
    /// # Errors
    ///
    /// [`ConnectionStringError::Invalid`] if it is not such a text or has no readable `se`.
    pub fn shared_access_signature(
        signature: impl Into<Secret>,
    ) -> Result<Self, ConnectionStringError> {
        SharedAccessSignature::parse(signature.into())
            .map(CredentialKind::SharedAccessSignature)
            .map(Self)
    }

    /// Signatures that the application gets from elsewhere, one after the other: `mint` is called with the resource,
    /// such as `sb://contoso.servicebus.windows.net/orders/ConsumerGroups/$Default`, and returns a
    /// `SharedAccessSignature sr=…` for it or for something above it. It is called again after 72 to 80 % of the life that
    /// `se` gives, at least 5 s apart, and has 30 s.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventhubs_processor::credential::{EventHubsCredential, Secret};
    /// # async fn ask_the_broker(resource: &str) -> std::io::Result<String> { todo!() }
    ///
    /// let credential = EventHubsCredential::renewable_signature(|resource| async move {
    ///     Ok(Secret::new(ask_the_broker(&resource).await?))
    /// });
    /// ```
    pub fn renewable_signature<F, Fut>(mint: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, BoxError>> + Send + 'static,
    {
        Self(CredentialKind::RenewableSignature(SignatureSource::new(
            mint,
        )))
    }

    /// Tokens of Microsoft Entra ID or another issuer, asked for ahead of each expiry.
    #[must_use]
    pub fn token(credential: Arc<dyn TokenCredential>) -> Self {
        Self(CredentialKind::Token(credential))
    }
}

impl CredentialKind {
    /// Counts the keys that there have been: a token from an older one is not to be used any more.
    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::SharedAccessKey(key) => key.version(),
            Self::SharedAccessSignature(_) | Self::RenewableSignature(_) | Self::Token(_) => 0,
        }
    }
}

impl fmt::Debug for EventHubsCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            CredentialKind::SharedAccessKey(key) => {
                return f
                    .debug_struct("EventHubsCredential")
                    .field("policy_name", &key.name())
                    .finish_non_exhaustive();
            }
            CredentialKind::SharedAccessSignature(_) => "shared access signature",
            CredentialKind::RenewableSignature(_) => "renewable signature",
            CredentialKind::Token(_) => "token credential",
        };
        write!(f, "EventHubsCredential({kind})")
    }
}

const ENDPOINT: &str = "Endpoint";
const HOST_NAME: &str = "HostName";
const KEY_NAME: &str = "SharedAccessKeyName";
const KEY: &str = "SharedAccessKey";
const SIGNATURE: &str = "SharedAccessSignature";
const ENTITY_PATH: &str = "EntityPath";
const EMULATOR: &str = "UseDevelopmentEmulator";

/// A parsed Event Hubs connection string, such as
/// `Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=…;EntityPath=orders`.
///
/// Stricter than the Python SDK and as strict as .NET and Go: a string that two SDKs would read differently
/// is refused. Keys match in any case, unknown keys are ignored.
#[derive(Clone, Debug)]
pub struct EventHubsConnectionString {
    host: String,
    port: Option<u16>,
    event_hub_name: Option<String>,
    credential: EventHubsCredential,
    uses_development_emulator: bool,
}

impl EventHubsConnectionString {
    /// Reads a connection string.
    ///
    /// # Errors
    ///
    /// Every [`ConnectionStringError`]: it names the field at fault and never shows a value. Both a key and a
    /// signature are a [`Conflict`](ConnectionStringError::Conflict), as are `Endpoint` and `HostName`.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        use ConnectionStringError as E;
        let [
            endpoint,
            host_name,
            key_name,
            key,
            signature,
            entity_path,
            emulator,
        ] = pairs::parse(
            text,
            [
                ENDPOINT,
                HOST_NAME,
                KEY_NAME,
                KEY,
                SIGNATURE,
                ENTITY_PATH,
                EMULATOR,
            ],
        )?;
        let (host, port) = match (endpoint, host_name) {
            (Some(_), Some(_)) => {
                return Err(E::Conflict {
                    first: ENDPOINT,
                    second: HOST_NAME,
                });
            }
            (Some(endpoint), None) => parse_endpoint(&endpoint)?,
            (None, Some(host_name)) => parse_host(&host_name, HOST_NAME)?,
            (None, None) => return Err(E::Missing { field: ENDPOINT }),
        };
        // That of the IoT hub itself, which is for devices and services.
        if host.contains(".azure-devices.") {
            return Err(E::Invalid {
                field: HOST_NAME,
                reason: "it names an IoT hub; expected the Event Hub-compatible endpoint (`Endpoint=sb://`) that the hub shows under \"Built-in endpoints\"",
            });
        }
        let credential = match (key_name, key, signature) {
            (_, Some(_), Some(_)) => {
                return Err(E::Conflict {
                    first: KEY,
                    second: SIGNATURE,
                });
            }
            (Some(name), Some(key), None) => EventHubsCredential::shared_access_key(name, key),
            (None, Some(_), None) => return Err(E::Missing { field: KEY_NAME }),
            (Some(_), None, None) | (None, None, None) => return Err(E::Missing { field: KEY }),
            (_, None, Some(signature)) => EventHubsCredential::shared_access_signature(signature)?,
        };
        let uses_development_emulator = match emulator.as_deref() {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            Some(_) => {
                return Err(E::Invalid {
                    field: EMULATOR,
                    reason: "expected `true` or `false`",
                });
            }
        };
        Ok(Self {
            host,
            port,
            event_hub_name: entity_path,
            credential,
            uses_development_emulator,
        })
    }

    /// Host name of the namespace, in lower case and without port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Name of the namespace as it stands in the names of blobs: the host, with the port if the string has one.
    ///
    /// INTEROP: so does Python (`localhost:25672`); JS leaves the port out (azure-eventhub 5.15.1,
    /// @azure/event-hubs 6.0.4). See ADR-0010.
    #[must_use]
    pub fn fully_qualified_namespace(&self) -> String {
        namespace_name(&self.host, self.port)
    }

    /// The port to dial, if the string names one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The event hub that `EntityPath` names.
    #[must_use]
    pub fn event_hub_name(&self) -> Option<&str> {
        self.event_hub_name.as_deref()
    }

    /// The key or signature.
    #[must_use]
    pub fn credential(&self) -> &EventHubsCredential {
        &self.credential
    }

    /// Whether the string asks for an emulator, which speaks without TLS.
    #[must_use]
    pub fn uses_development_emulator(&self) -> bool {
        self.uses_development_emulator
    }

    /// The event hub to use: `explicit`, else `EntityPath`.
    ///
    /// # Errors
    ///
    /// - [`Missing`](ConnectionStringError::Missing) if there is neither.
    /// - [`Invalid`](ConnectionStringError::Invalid) if they name different event hubs. Case does not count.
    pub fn event_hub_or(&self, explicit: Option<&str>) -> Result<String, ConnectionStringError> {
        match (explicit, self.event_hub_name()) {
            (Some(hub), Some(path)) if !hub.eq_ignore_ascii_case(path) => {
                Err(ConnectionStringError::Invalid {
                    field: ENTITY_PATH,
                    reason: "it names another event hub than the one given",
                })
            }
            (Some(hub), _) | (None, Some(hub)) => Ok(hub.to_owned()),
            (None, None) => Err(ConnectionStringError::Missing { field: ENTITY_PATH }),
        }
    }
}

/// A host and its port as one name; an IPv6 address gets its brackets back.
pub(crate) fn namespace_name(host: &str, port: Option<u16>) -> String {
    match port {
        None => host.to_owned(),
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
    }
}

fn parse_endpoint(endpoint: &str) -> Result<(String, Option<u16>), ConnectionStringError> {
    let invalid = |reason| ConnectionStringError::Invalid {
        field: ENDPOINT,
        reason,
    };
    let (scheme, rest) = endpoint
        .split_once("://")
        .ok_or_else(|| invalid("expected `sb://<host>/`"))?;
    if !["sb", "amqp", "amqps", "http", "https"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme))
    {
        return Err(invalid("expected the scheme `sb`"));
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.contains(['/', '?', '#', '@']) {
        return Err(invalid("expected a host name and nothing after it"));
    }
    parse_host(host, ENDPOINT)
}

/// Splits `host[:port]`; an IPv6 address stands in brackets.
pub(crate) fn parse_host(
    text: &str,
    field: &'static str,
) -> Result<(String, Option<u16>), ConnectionStringError> {
    let invalid = |reason| ConnectionStringError::Invalid { field, reason };
    let (host, port) = match text.rsplit_once(':') {
        Some((_, tail)) if tail.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let port = match port.map(str::parse) {
        None => None,
        Some(Ok(0) | Err(_)) => return Err(invalid("the port is not a number from 1 to 65535")),
        Some(Ok(port)) => Some(port),
    };
    let name = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let well_formed = match name {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    };
    if !well_formed {
        return Err(invalid("expected a host name"));
    }
    Ok((name.unwrap_or(host).to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "Endpoint=sb://Contoso.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=c2VjcmV0a2V5==;EntityPath=orders";
    const SIG: &str =
        "SharedAccessSignature sr=sb%3a%2f%2fh%2fhub&sig=Y2FuYXJ5%3d&se=4102444800&skn=listen";

    fn err(text: &str) -> ConnectionStringError {
        EventHubsConnectionString::parse(text).unwrap_err()
    }

    #[test]
    fn the_built_in_endpoint_of_an_iot_hub_is_a_namespace_and_the_hub_is_none() {
        let built_in = EventHubsConnectionString::parse(
            "Endpoint=sb://ihsuprodres052dednamespace.servicebus.windows.net/;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0a2V5=;EntityPath=iothub-ehub-pumps-1234-0a1b2c",
        )
        .unwrap();
        assert_eq!(
            built_in.host(),
            "ihsuprodres052dednamespace.servicebus.windows.net"
        );
        assert_eq!(
            built_in.event_hub_name(),
            Some("iothub-ehub-pumps-1234-0a1b2c")
        );
        for text in [
            "HostName=pumps.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey=k",
            "HostName=Pumps.Azure-Devices.cn;DeviceId=7;SharedAccessKey=k",
        ] {
            let error = EventHubsConnectionString::parse(text).unwrap_err();
            assert!(
                matches!(
                    error,
                    ConnectionStringError::Invalid {
                        field: "HostName",
                        ..
                    }
                ),
                "{error}"
            );
            assert!(error.to_string().contains("Built-in endpoints"));
        }
    }

    #[test]
    fn reads_every_field() {
        let parsed = EventHubsConnectionString::parse(GOOD).unwrap();
        assert_eq!(
            parsed.fully_qualified_namespace(),
            "contoso.servicebus.windows.net"
        );
        assert_eq!(parsed.port(), None);
        assert_eq!(parsed.event_hub_name(), Some("orders"));
        assert!(!parsed.uses_development_emulator());
        let CredentialKind::SharedAccessKey(key) = &parsed.credential().0 else {
            panic!("a key")
        };
        assert_eq!(key.name(), "listen");
    }

    #[test]
    fn a_port_is_dialled_and_part_of_the_namespace_as_in_python() {
        let parsed = EventHubsConnectionString::parse(
            "endpoint=sb://localhost:25672;sharedaccesskeyname=n;sharedaccesskey=k;usedevelopmentemulator=TRUE;",
        )
        .unwrap();
        assert_eq!(parsed.host(), "localhost");
        assert_eq!(parsed.fully_qualified_namespace(), "localhost:25672");
        assert_eq!(parsed.port(), Some(25672));
        assert!(parsed.uses_development_emulator());
    }

    #[test]
    fn reads_host_name_and_ipv6() {
        let parse = EventHubsConnectionString::parse;
        let parsed =
            parse("HostName=h.example:5671;SharedAccessKeyName=n;SharedAccessKey=k").unwrap();
        assert_eq!(parsed.port(), Some(5671));
        let parsed =
            parse("Endpoint=sb://[::1]:5672/;SharedAccessKeyName=n;SharedAccessKey=k").unwrap();
        assert_eq!(parsed.host(), "::1");
        assert_eq!(parsed.fully_qualified_namespace(), "[::1]:5672");
        assert_eq!(parsed.port(), Some(5672));
    }

    #[test]
    fn mistakes_name_the_field() {
        use ConnectionStringError as E;
        let cases: &[(&str, E)] = &[
            ("", E::Empty),
            (
                "SharedAccessKeyName=n;SharedAccessKey=k",
                E::Missing { field: "Endpoint" },
            ),
            (
                "Endpoint=sb://h/;SharedAccessKey=k",
                E::Missing {
                    field: "SharedAccessKeyName",
                },
            ),
            (
                "Endpoint=sb://h/;SharedAccessKeyName=n",
                E::Missing {
                    field: "SharedAccessKey",
                },
            ),
            (
                "Endpoint=sb://h/",
                E::Missing {
                    field: "SharedAccessKey",
                },
            ),
            (
                "Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=k;EntityPath=",
                E::EmptyValue {
                    field: "EntityPath",
                },
            ),
            (
                "Endpoint=sb://h/;HostName=h;SharedAccessKeyName=n;SharedAccessKey=k",
                E::Conflict {
                    first: "Endpoint",
                    second: "HostName",
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(&err(text), expected, "{text}");
        }
        let both = format!(
            "Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=k;SharedAccessSignature={SIG}"
        );
        assert_eq!(
            err(&both),
            E::Conflict {
                first: "SharedAccessKey",
                second: "SharedAccessSignature"
            }
        );
        for endpoint in [
            "h",
            "ftp://h/",
            "sb://",
            "sb:///x",
            "sb://h/path",
            "sb://h:0",
            "sb://h:99999",
            "sb://a b",
        ] {
            let text = format!("Endpoint={endpoint};SharedAccessKeyName=n;SharedAccessKey=k");
            assert!(
                matches!(
                    err(&text),
                    E::Invalid {
                        field: "Endpoint",
                        ..
                    }
                ),
                "{endpoint}"
            );
        }
        for (key, value) in [(EMULATOR, "yes"), (SIGNATURE, "sr=a")] {
            let base = if key == SIGNATURE {
                ""
            } else {
                "SharedAccessKeyName=n;SharedAccessKey=k;"
            };
            let text = format!("Endpoint=sb://h/;{base}{key}={value}");
            assert!(
                matches!(err(&text), E::Invalid { field, .. } if field == key),
                "{key}"
            );
        }
    }

    #[test]
    fn the_event_hub_may_stand_in_either_place_but_not_differ() {
        let parsed = EventHubsConnectionString::parse(GOOD).unwrap();
        assert_eq!(parsed.event_hub_or(None).unwrap(), "orders");
        assert_eq!(parsed.event_hub_or(Some("Orders")).unwrap(), "Orders");
        assert!(parsed.event_hub_or(Some("other")).is_err());
        let without =
            EventHubsConnectionString::parse(&GOOD.replace(";EntityPath=orders", "")).unwrap();
        assert!(matches!(
            without.event_hub_or(None),
            Err(ConnectionStringError::Missing {
                field: "EntityPath"
            })
        ));
    }

    #[test]
    fn nothing_prints_a_secret() {
        let key = EventHubsConnectionString::parse(GOOD).unwrap();
        let sas = EventHubsConnectionString::parse(&format!(
            "Endpoint=sb://h/;SharedAccessSignature={SIG}"
        ))
        .unwrap();
        let mut printed = format!(
            "{key:?} {:?} {sas:?} {:?}",
            key.credential(),
            sas.credential()
        );
        for broken in [
            GOOD.replace("sb://", "zz"),
            GOOD.replace("SharedAccessKeyName=listen;", ""),
            format!("{GOOD};SharedAccessSignature={SIG}"),
            format!(
                "Endpoint=sb://h/;SharedAccessSignature={}",
                SIG.replace("se=", "xx=")
            ),
            GOOD.replace("SharedAccessKey=", "SharedAccessKey"),
            format!("{GOOD};SharedAccessKey=c2VjcmV0a2V5=="),
        ] {
            let error = err(&broken);
            printed += &format!("{error} {error:?}");
        }
        for secret in ["c2VjcmV0a2V5", "Y2FuYXJ5"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,120}") {
            let _ = EventHubsConnectionString::parse(&text);
            let _ = EventHubsConnectionString::parse(
                &format!("Endpoint={text};SharedAccessKeyName=n;SharedAccessKey=k"));
        }

        #[test]
        fn hosts_survive(host in "[a-z][a-z0-9.-]{0,40}", port in proptest::option::of(1u16..)) {
            let suffix = port.map(|port| format!(":{port}")).unwrap_or_default();
            let parsed = EventHubsConnectionString::parse(
                &format!("Endpoint=sb://{host}{suffix}/;SharedAccessKeyName=n;SharedAccessKey=k")).unwrap();
            prop_assert_eq!(parsed.host(), host);
            prop_assert_eq!(parsed.port(), port);
        }
    }
}
