//! Performatives as a peer sends them: the fields this server looks at.

use bytes::Bytes;

use super::{DecodeError, Decoder, Fields, Value, descriptor};

#[derive(Debug)]
pub(crate) enum Performative {
    Open(Open),
    Begin(Begin),
    Attach(Box<Attach>),
    Flow(Flow),
    Transfer(Transfer),
    Disposition(Disposition),
    Detach(Detach),
    End,
    Close,
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) container_id: String,
    pub(crate) hostname: Option<String>,
    pub(crate) max_frame_size: Option<u32>,
    pub(crate) idle_timeout_ms: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) next_outgoing_id: u32,
    pub(crate) incoming_window: u32,
}

#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) name: String,
    pub(crate) handle: u32,
    /// True if the peer receives.
    pub(crate) is_receiver: bool,
    pub(crate) snd_settle_mode: Option<u32>,
    pub(crate) rcv_settle_mode: Option<u32>,
    /// As encoded by the peer, for the echo.
    pub(crate) raw_source: Option<Bytes>,
    pub(crate) raw_target: Option<Bytes>,
    pub(crate) source: Terminus,
    pub(crate) target: Terminus,
    pub(crate) initial_delivery_count: Option<u32>,
    pub(crate) desired_capabilities: Vec<String>,
    pub(crate) properties: Value,
}

/// What matters of a source or target.
#[derive(Debug, Default)]
pub(crate) struct Terminus {
    pub(crate) address: Option<String>,
    pub(crate) filter: Value,
}

impl Default for Value {
    fn default() -> Self {
        Self::Null
    }
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) next_incoming_id: Option<u32>,
    pub(crate) incoming_window: u32,
    pub(crate) handle: Option<u32>,
    pub(crate) delivery_count: Option<u32>,
    pub(crate) link_credit: Option<u32>,
    pub(crate) drain: bool,
    pub(crate) echo: bool,
}

#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) handle: u32,
    pub(crate) delivery_id: Option<u32>,
    pub(crate) message_format: Option<u32>,
    pub(crate) settled: Option<bool>,
    pub(crate) more: bool,
    pub(crate) aborted: bool,
    pub(crate) payload: Bytes,
}

#[derive(Debug)]
pub(crate) struct Disposition {
    pub(crate) is_receiver: bool,
    pub(crate) first: u32,
    pub(crate) last: Option<u32>,
    pub(crate) settled: bool,
    pub(crate) raw_state: Option<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Detach {
    pub(crate) handle: u32,
    pub(crate) closed: bool,
}

/// The mandatory field of a performative is null.
const MISSING: DecodeError = DecodeError::Type(0x40);

/// Reads the performative of a frame body; what follows it is the payload of a transfer.
pub(crate) fn performative(body: &Bytes) -> Result<Performative, DecodeError> {
    let mut decoder = Decoder::new(body);
    let code = decoder.descriptor()?;
    let mut fields = decoder.list()?;
    let f = &mut fields;
    Ok(match code {
        descriptor::OPEN => Performative::Open(open(f)?),
        descriptor::BEGIN => Performative::Begin(begin(f)?),
        descriptor::ATTACH => Performative::Attach(Box::new(attach(f)?)),
        descriptor::FLOW => Performative::Flow(flow(f)?),
        descriptor::TRANSFER => {
            let payload = body.slice(body.len() - decoder.remaining()..);
            Performative::Transfer(transfer(f, payload)?)
        }
        descriptor::DISPOSITION => Performative::Disposition(disposition(f)?),
        descriptor::DETACH => Performative::Detach(Detach {
            handle: f.uint()?.ok_or(MISSING)?,
            closed: f.boolean()?.unwrap_or(false),
        }),
        descriptor::END => Performative::End,
        descriptor::CLOSE => Performative::Close,
        other => return Err(DecodeError::Descriptor(other)),
    })
}

/// The mechanism of a `sasl-init`. The response is not looked at: access is granted by CBS.
pub(crate) fn sasl_init(body: &Bytes) -> Result<String, DecodeError> {
    let mut decoder = Decoder::new(body);
    match decoder.descriptor()? {
        descriptor::SASL_INIT => decoder.list()?.text()?.ok_or(MISSING),
        other => Err(DecodeError::Descriptor(other)),
    }
}

fn open(f: &mut Fields<'_>) -> Result<Open, DecodeError> {
    let container_id = f.text()?.ok_or(MISSING)?;
    let hostname = f.text()?;
    let max_frame_size = f.uint()?;
    let _channel_max = f.uint()?;
    Ok(Open {
        container_id,
        hostname,
        max_frame_size,
        idle_timeout_ms: f.uint()?,
    })
}

fn begin(f: &mut Fields<'_>) -> Result<Begin, DecodeError> {
    let _remote_channel = f.raw()?;
    Ok(Begin {
        next_outgoing_id: f.uint()?.ok_or(MISSING)?,
        incoming_window: f.uint()?.ok_or(MISSING)?,
    })
}

fn attach(f: &mut Fields<'_>) -> Result<Attach, DecodeError> {
    let name = f.text()?.ok_or(MISSING)?;
    let handle = f.uint()?.ok_or(MISSING)?;
    let is_receiver = f.boolean()?.ok_or(MISSING)?;
    let snd_settle_mode = f.uint()?;
    let rcv_settle_mode = f.uint()?;
    let raw_source = f.raw()?;
    let raw_target = f.raw()?;
    let _unsettled = f.raw()?;
    let _incomplete_unsettled = f.raw()?;
    let initial_delivery_count = f.uint()?;
    let _max_message_size = f.raw()?;
    let _offered_capabilities = f.raw()?;
    let desired_capabilities = f.value()?.into_symbols();
    let properties = f.value()?;
    Ok(Attach {
        name,
        handle,
        is_receiver,
        snd_settle_mode,
        rcv_settle_mode,
        source: raw_source.map_or_else(|| Ok(Terminus::default()), source)?,
        target: raw_target.map_or_else(|| Ok(Terminus::default()), target)?,
        raw_source: raw_source.map(Bytes::copy_from_slice),
        raw_target: raw_target.map(Bytes::copy_from_slice),
        initial_delivery_count,
        desired_capabilities,
        properties,
    })
}

fn source(raw: &[u8]) -> Result<Terminus, DecodeError> {
    let mut decoder = Decoder::new(raw);
    match decoder.descriptor()? {
        descriptor::SOURCE => {}
        other => return Err(DecodeError::Descriptor(other)),
    }
    let mut f = decoder.list()?;
    let address = f.text()?;
    // durable, expiry-policy, timeout, dynamic, dynamic-node-properties, distribution-mode
    for _ in 0..6 {
        f.raw()?;
    }
    Ok(Terminus {
        address,
        filter: f.value()?,
    })
}

fn target(raw: &[u8]) -> Result<Terminus, DecodeError> {
    let mut decoder = Decoder::new(raw);
    match decoder.descriptor()? {
        descriptor::TARGET => Ok(Terminus {
            address: decoder.list()?.text()?,
            filter: Value::Null,
        }),
        // A coordinator, or what a later standard may add: an address nothing is found at.
        _ => Ok(Terminus::default()),
    }
}

fn flow(f: &mut Fields<'_>) -> Result<Flow, DecodeError> {
    let next_incoming_id = f.uint()?;
    let incoming_window = f.uint()?.ok_or(MISSING)?;
    let _next_outgoing_id = f.uint()?;
    let _outgoing_window = f.uint()?;
    let handle = f.uint()?;
    let delivery_count = f.uint()?;
    let link_credit = f.uint()?;
    let _available = f.uint()?;
    Ok(Flow {
        next_incoming_id,
        incoming_window,
        handle,
        delivery_count,
        link_credit,
        drain: f.boolean()?.unwrap_or(false),
        echo: f.boolean()?.unwrap_or(false),
    })
}

fn transfer(f: &mut Fields<'_>, payload: Bytes) -> Result<Transfer, DecodeError> {
    let handle = f.uint()?.ok_or(MISSING)?;
    let delivery_id = f.uint()?;
    let _delivery_tag = f.raw()?;
    let message_format = f.uint()?;
    let settled = f.boolean()?;
    let more = f.boolean()?.unwrap_or(false);
    let _rcv_settle_mode = f.raw()?;
    let _state = f.raw()?;
    let _resume = f.raw()?;
    let aborted = f.boolean()?.unwrap_or(false);
    Ok(Transfer {
        handle,
        delivery_id,
        message_format,
        settled,
        more,
        aborted,
        payload,
    })
}

fn disposition(f: &mut Fields<'_>) -> Result<Disposition, DecodeError> {
    Ok(Disposition {
        is_receiver: f.boolean()?.ok_or(MISSING)?,
        first: f.uint()?.ok_or(MISSING)?,
        last: f.uint()?,
        settled: f.boolean()?.unwrap_or(false),
        raw_state: f.raw()?.map(Bytes::copy_from_slice),
    })
}
