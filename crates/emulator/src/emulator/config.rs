//! The `Config.json` of Microsoft's emulator, so that people can bring theirs along.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

/// An event hub of a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfiguredHub {
    pub(super) name: String,
    pub(super) partitions: u32,
    pub(super) consumer_groups: Vec<String>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not JSON.
    #[error("{path} is not JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value is missing or not what it should be.
    #[error("{path}: {at} should be {expected}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The place, such as `UserConfig.NamespaceConfig[0].Entities[1].Name`.
        at: String,
        /// What should be there.
        expected: &'static str,
    },
}

/// Reads the event hubs of a file.
pub(super) fn read(path: &Path) -> Result<Vec<ConfiguredHub>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<ConfiguredHub>, ConfigError> {
    // Editors on Windows put a byte order mark in front.
    let text = text.trim_start_matches('\u{feff}');
    let root: Value = serde_json::from_str(text).map_err(|source| ConfigError::Json {
        path: path.to_owned(),
        source,
    })?;
    let root = Node {
        file: path,
        at: String::new(),
        value: Some(&root),
    };
    let user = root.object(&["UserConfig"])?.field("UserConfig");
    let user = user.object(&["NamespaceConfig", "LoggingConfig"])?;
    let mut hubs: Vec<ConfiguredHub> = Vec::new();
    for namespace in user.field("NamespaceConfig").items()? {
        let namespace = namespace.object(&["Type", "Name", "Entities"])?;
        let kind = namespace.field("Type");
        // INTEROP: older files write "EventHub" in other cases.
        if kind.value.is_some() && !kind.text()?.eq_ignore_ascii_case("EventHub") {
            return Err(kind.wrong("\"EventHub\""));
        }
        for entity in namespace.field("Entities").items()? {
            let entity = entity.object(&["Name", "PartitionCount", "ConsumerGroups"])?;
            let name = entity.field("Name");
            let hub = ConfiguredHub {
                name: name.text()?.to_owned(),
                partitions: entity.field("PartitionCount").number()?,
                consumer_groups: groups(&entity.field("ConsumerGroups"))?,
            };
            if hubs.iter().any(|h| h.name.eq_ignore_ascii_case(&hub.name)) {
                return Err(name.wrong("a name no other event hub has"));
            }
            hubs.push(hub);
        }
    }
    Ok(hubs)
}

fn groups(node: &Node<'_>) -> Result<Vec<String>, ConfigError> {
    if node.value.is_none() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for group in node.items()? {
        let group = group.object(&["Name"])?;
        names.push(group.field("Name").text()?.to_owned());
    }
    Ok(names)
}

/// A value and its place in the file.
struct Node<'a> {
    file: &'a Path,
    at: String,
    value: Option<&'a Value>,
}

/// A value that is an object.
struct Object<'a> {
    node: Node<'a>,
    fields: &'a Map<String, Value>,
}

impl<'a> Node<'a> {
    /// The value as an object; fields that are not `known` are told and left alone.
    fn object(self, known: &[&str]) -> Result<Object<'a>, ConfigError> {
        let Some(Value::Object(fields)) = self.value else {
            return Err(self.wrong("an object"));
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let at = place(&self.at, name);
            tracing::warn!(file = %self.file.display(), "{at} is not known and has no effect");
        }
        Ok(Object { node: self, fields })
    }

    fn items(&self) -> Result<impl Iterator<Item = Self>, ConfigError> {
        let Some(Value::Array(items)) = self.value else {
            return Err(self.wrong("a list"));
        };
        let (file, at) = (self.file, self.at.clone());
        Ok(items.iter().enumerate().map(move |(index, item)| Node {
            file,
            at: format!("{at}[{index}]"),
            value: Some(item),
        }))
    }

    fn text(&self) -> Result<&'a str, ConfigError> {
        match self.value {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            _ => Err(self.wrong("a text")),
        }
    }

    /// INTEROP: the schema says text, many files have a number.
    fn number(&self) -> Result<u32, ConfigError> {
        let number = match self.value {
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(Value::Number(number)) => number.as_u64().and_then(|n| n.try_into().ok()),
            _ => None,
        };
        number.ok_or_else(|| self.wrong("a number"))
    }

    fn wrong(&self, expected: &'static str) -> ConfigError {
        let at = if self.at.is_empty() {
            "the file"
        } else {
            &self.at
        };
        ConfigError::Value {
            path: self.file.to_owned(),
            at: at.to_owned(),
            expected,
        }
    }
}

impl<'a> Object<'a> {
    fn field(&self, name: &str) -> Node<'a> {
        Node {
            file: self.node.file,
            at: place(&self.node.at, name),
            value: self.fields.get(name),
        }
    }
}

fn place(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<ConfiguredHub>, ConfigError> {
        parse(Path::new("Config.json"), text)
    }

    fn entities(entities: &str) -> String {
        format!(
            r#"{{"UserConfig": {{"NamespaceConfig": [{{"Type": "EventHub", "Name": "emulatorNs1",
            "Entities": {entities}}}], "LoggingConfig": {{"Type": "File"}}}}}}"#
        )
    }

    #[test]
    fn a_file_of_the_official_emulator_is_read() {
        let text = entities(
            r#"[{"Name": "eh1", "PartitionCount": "2", "ConsumerGroups": [{"Name": "cg1"}]},
                {"Name": "eh2", "PartitionCount": 4, "RetentionInDays": 1}]"#,
        );
        let hubs = of(&format!("\u{feff}{text}")).unwrap();
        assert_eq!(
            (
                &*hubs[0].name,
                hubs[0].partitions,
                &*hubs[0].consumer_groups
            ),
            ("eh1", 2, &["cg1".to_owned()][..])
        );
        assert_eq!((&*hubs[1].name, hubs[1].partitions), ("eh2", 4));
    }

    #[test]
    fn errors_tell_the_place() {
        let in_entities = "UserConfig.NamespaceConfig[0].Entities";
        for (text, expected) in [
            ("[]".to_owned(), "the file should be an object".to_owned()),
            ("{}".to_owned(), "UserConfig should be an object".to_owned()),
            (
                entities(r#"[{"Name": "a", "PartitionCount": "two"}]"#),
                format!("{in_entities}[0].PartitionCount should be a number"),
            ),
            (
                entities(r#"[{"Name": "a", "PartitionCount": -1}]"#),
                format!("{in_entities}[0].PartitionCount should be a number"),
            ),
            (
                entities(r#"[{"Name": "a", "PartitionCount": 1}, {"PartitionCount": 1}]"#),
                format!("{in_entities}[1].Name should be a text"),
            ),
            (
                entities(
                    r#"[{"Name": "a", "PartitionCount": 1}, {"Name": "A", "PartitionCount": 1}]"#,
                ),
                format!("{in_entities}[1].Name should be a name no other event hub has"),
            ),
            (
                entities(r#"[{"Name": "a", "PartitionCount": 1, "ConsumerGroups": [{}]}]"#),
                format!("{in_entities}[0].ConsumerGroups[0].Name should be a text"),
            ),
        ] {
            let error = of(&text).unwrap_err().to_string();
            assert_eq!(error, format!("Config.json: {expected}"));
        }
        assert!(matches!(of("{"), Err(ConfigError::Json { .. })));
    }
}
