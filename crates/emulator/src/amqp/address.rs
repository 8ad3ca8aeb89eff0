//! Link addresses, in the spellings of all SDKs.

use percent_encoding::percent_decode_str;

/// What a link address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Cbs,
    Management,
    Hub {
        hub: String,
    },
    Partition {
        hub: String,
        partition: String,
    },
    Consumer {
        hub: String,
        group: String,
        partition: String,
    },
    Unknown,
}

impl Address {
    /// Reads a full URL of any scheme, host and port, a path with a leading slash, or a plain path.
    ///
    /// INTEROP: Python and Rust send URLs, .NET a leading slash, JS, Java and Go a plain path.
    /// Go writes the management node behind the hub.
    pub(crate) fn parse(text: &str) -> Self {
        let path = resource_path(text);
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        match segments.as_slice() {
            [node] if node.eq_ignore_ascii_case("$cbs") => Self::Cbs,
            [.., node] if node.eq_ignore_ascii_case("$management") => Self::Management,
            [hub] => Self::Hub {
                hub: (*hub).to_owned(),
            },
            // The publisher form of old SDKs; publisher policies are not emulated.
            [hub, kind, _] if kind.eq_ignore_ascii_case("publishers") => Self::Hub {
                hub: (*hub).to_owned(),
            },
            [hub, kind, partition] if kind.eq_ignore_ascii_case("partitions") => Self::Partition {
                hub: (*hub).to_owned(),
                partition: (*partition).to_owned(),
            },
            [hub, groups, group, kind, partition]
                if groups.eq_ignore_ascii_case("consumergroups")
                    && kind.eq_ignore_ascii_case("partitions") =>
            {
                Self::Consumer {
                    hub: (*hub).to_owned(),
                    group: (*group).to_owned(),
                    partition: (*partition).to_owned(),
                }
            }
            _ => Self::Unknown,
        }
    }
}

/// The path of a URL or address, decoded, without slashes at its ends.
pub(crate) fn resource_path(text: &str) -> String {
    let path = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => text,
    };
    percent_decode_str(path.trim_matches('/'))
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_of_all_sdks() {
        let consumer = Address::Consumer {
            hub: "hub".to_owned(),
            group: "$Default".to_owned(),
            partition: "3".to_owned(),
        };
        for text in [
            "amqps://localhost:5672/hub/ConsumerGroups/$Default/Partitions/3",
            "hub/consumergroups/$Default/partitions/3",
            "/hub/ConsumerGroups/$Default/Partitions/3",
            "sb://ns.servicebus.windows.net/hub/ConsumerGroups/%24Default/Partitions/3/",
        ] {
            assert_eq!(Address::parse(text), consumer, "{text}");
        }
        for text in ["hub", "/hub", "amqps://h/hub", "hub/Publishers/x"] {
            assert_eq!(
                Address::parse(text),
                Address::Hub {
                    hub: "hub".to_owned()
                },
                "{text}"
            );
        }
        let partition = Address::Partition {
            hub: "hub".to_owned(),
            partition: "0".to_owned(),
        };
        assert_eq!(Address::parse("hub/PARTITIONS/0"), partition);
    }

    #[test]
    fn knows_the_nodes() {
        assert_eq!(Address::parse("$cbs"), Address::Cbs);
        assert_eq!(Address::parse("$management"), Address::Management);
        assert_eq!(Address::parse("hub/$management"), Address::Management);
        for text in ["", "amqps://host", "a/b/c/d", "hub/ConsumerGroups/$Default"] {
            assert_eq!(Address::parse(text), Address::Unknown, "{text}");
        }
    }
}
