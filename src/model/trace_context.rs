//! The trace that an event belongs to.

use super::{ReceivedEvent, Value};

/// Longest `tracestate` that is passed on; W3C Trace Context asks for 512 bytes at least (3.3.1.5).
const MAX_STATE: usize = 4096;

/// The place in a trace from which an event was sent (W3C Trace Context); from [`ReceivedEvent::trace_context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext<'a> {
    trace_parent: &'a str,
    trace_state: Option<&'a str>,
}

impl<'a> TraceContext<'a> {
    /// All of it in one, `00-<trace id>-<parent id>-<flags>`, for a propagator.
    #[must_use]
    pub fn trace_parent(&self) -> &'a str {
        self.trace_parent
    }

    /// What vendors add (`tracestate`).
    #[must_use]
    pub fn trace_state(&self) -> Option<&'a str> {
        self.trace_state
    }

    /// The trace: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &'a str {
        &self.trace_parent[3..35]
    }

    /// The span that sent the event: 16 hexadecimal digits.
    #[must_use]
    pub fn parent_id(&self) -> &'a str {
        &self.trace_parent[36..52]
    }

    /// Whether the sender records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        // Checked to be a hexadecimal digit.
        u8::from_str_radix(&self.trace_parent[53..55], 16).is_ok_and(|flags| flags & 1 == 1)
    }
}

impl ReceivedEvent {
    /// The trace that the event was sent in, from the application properties `traceparent` and `tracestate`, else from
    /// `Diagnostic-Id`, which older SDKs set. `None` if there is none, or none in the form of W3C Trace Context.
    #[must_use]
    pub fn trace_context(&self) -> Option<TraceContext<'_>> {
        let properties = self.properties();
        let text = |name| properties.get(name).and_then(Value::as_str);
        // INTEROP: the SDKs write both, with one value; the Python and .NET ones once wrote `Diagnostic-Id` alone.
        let trace_parent = [text("traceparent"), text("Diagnostic-Id")]
            .into_iter()
            .flatten()
            .find(|parent| is_trace_parent(parent))?;
        Some(TraceContext {
            trace_parent,
            trace_state: text("tracestate").filter(|state| is_trace_state(state)),
        })
    }
}

/// PROTOCOL: W3C Trace Context, 3.2. Later versions may have more behind the flags.
fn is_trace_parent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let Some((fixed, rest)) = bytes.split_at_checked(55) else {
        return false;
    };
    let (version, trace, parent, flags) =
        (&fixed[..2], &fixed[3..35], &fixed[36..52], &fixed[53..55]);
    let ends = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => rest.is_empty() || (rest.starts_with(b"-") && rest.iter().all(u8::is_ascii_graphic)),
    };
    ends && bytes.len() <= 128
        && [fixed[2], fixed[35], fixed[52]] == *b"---"
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && !is_zero(trace)
        && !is_zero(parent)
}

/// Not its grammar, but nothing that would make two headers or two lines of it.
fn is_trace_state(text: &str) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    !text.is_empty() && text.len() <= MAX_STATE && text.as_bytes().iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::super::EventParts;
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn event(properties: &[(&str, &str)]) -> ReceivedEvent {
        let mut parts = EventParts::new(0, "0", UNIX_EPOCH, "");
        for (name, text) in properties {
            let value = Value::String((*text).to_owned());
            parts.properties.insert((*name).to_owned(), value);
        }
        ReceivedEvent::new(parts)
    }

    #[test]
    fn the_context_is_read_from_either_property() {
        let state = "vendor=a,other=b";
        let event = event(&[("traceparent", PARENT), ("tracestate", state)]);
        let context = event.trace_context().unwrap();
        assert_eq!(context.trace_parent(), PARENT);
        assert_eq!(context.trace_state(), Some(state));
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent_id(), "00f067aa0ba902b7");
        assert!(context.is_sampled());

        let older = self::event(&[("Diagnostic-Id", &PARENT.replace("-01", "-00"))]);
        let context = older.trace_context().unwrap();
        assert!(!context.is_sampled());
        assert_eq!(context.trace_state(), None);

        // Of the first generation of Application Insights.
        let broken = self::event(&[("traceparent", "|abc.1."), ("Diagnostic-Id", PARENT)]);
        assert_eq!(broken.trace_context().unwrap().trace_parent(), PARENT);
    }

    #[test]
    fn what_is_no_context_is_none() {
        for text in [
            "",
            "|4bf92f3577b34da6.1.",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-\nx",
        ] {
            assert_eq!(
                event(&[("traceparent", text)]).trace_context(),
                None,
                "{text}"
            );
        }
        let later = format!("{}-more", PARENT.replacen("00-", "01-", 1));
        assert!(event(&[("traceparent", &later)]).trace_context().is_some());
        let event = event(&[("traceparent", PARENT), ("tracestate", "a=b\r\nx: y")]);
        assert_eq!(event.trace_context().unwrap().trace_state(), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}", cut in 0_usize..56) {
            let mixed = PARENT.chars().take(cut).chain(text.chars()).collect::<String>();
            for text in [&text, &mixed] {
                let event = event(&[("traceparent", text), ("tracestate", text)]);
                if let Some(context) = event.trace_context() {
                    prop_assert_eq!(context.trace_id().len() + context.parent_id().len(), 48);
                    let _ = context.is_sampled();
                }
            }
        }
    }
}
