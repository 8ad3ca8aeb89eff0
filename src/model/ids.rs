//! The identifiers that travel through every layer.

use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// Identifies one partition of an event hub.
    ///
    /// The service writes ids as text (`"0"`, `"1"`, …) and so do the blobs; nothing may count with them.
    PartitionId
}

text_id! {
    /// Identity of one processor instance, as it stands in ownership records.
    ///
    /// Two processors of one consumer group must not share it.
    OwnerId
}

text_id! {
    /// Where an event stands in its partition's log. Opaque: geo-replicated namespaces use offsets that
    /// are not numbers, so an offset is compared for equality only and handed back as it came.
    Offset
}

text_id! {
    /// Version of a stored record, for conditional writes. Kept without the quotes that HTTP headers put
    /// around it and listings leave out; equality is the only meaning it has.
    ETag
}

impl OwnerId {
    /// Whether both name the same processor. Owner ids are compared without regard to ASCII case,
    /// as the .NET SDK does.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

/// Names one consumer group of one event hub: everything a processor owns and checkpoints lies under it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupScope {
    fully_qualified_namespace: Arc<str>,
    event_hub_name: Arc<str>,
    consumer_group: Arc<str>,
}

impl GroupScope {
    /// Puts the three names together, as the user spelled them.
    pub fn new(
        fully_qualified_namespace: impl Into<Arc<str>>,
        event_hub_name: impl Into<Arc<str>>,
        consumer_group: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            fully_qualified_namespace: fully_qualified_namespace.into(),
            event_hub_name: event_hub_name.into(),
            consumer_group: consumer_group.into(),
        }
    }

    /// The names in lower case. Event Hubs does not tell cases apart, and names are ASCII.
    pub(crate) fn folded(&self) -> Self {
        Self::new(
            self.fully_qualified_namespace.to_ascii_lowercase(),
            self.event_hub_name.to_ascii_lowercase(),
            self.consumer_group.to_ascii_lowercase(),
        )
    }

    /// Host name of the namespace, such as `contoso.servicebus.windows.net`.
    #[must_use]
    pub fn fully_qualified_namespace(&self) -> &str {
        &self.fully_qualified_namespace
    }

    /// Name of the event hub.
    #[must_use]
    pub fn event_hub_name(&self) -> &str {
        &self.event_hub_name
    }

    /// Name of the consumer group, such as `$Default`.
    #[must_use]
    pub fn consumer_group(&self) -> &str {
        &self.consumer_group
    }
}

impl fmt::Display for GroupScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.fully_qualified_namespace, self.event_hub_name, self.consumer_group
        )
    }
}
