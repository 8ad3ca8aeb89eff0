//! Frames: size, data offset, type, channel.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::encode::len_u32;

pub(crate) const HEADER_LEN: usize = 8;
/// An empty frame on channel 0.
pub(crate) const HEARTBEAT: [u8; 8] = [0, 0, 0, 8, 2, 0, 0, 0];

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameType {
    Amqp,
    Sasl,
}

/// One frame without its header.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) frame_type: FrameType,
    pub(crate) channel: u16,
    pub(crate) body: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    #[error("frame of {size} bytes exceeds the limit of {limit}")]
    TooLarge { size: u32, limit: u32 },
    #[error("frame size {size} with data offset {offset}")]
    Malformed { size: u32, offset: u8 },
    #[error("frame type 0x{0:02x}")]
    Type(u8),
}

/// Takes the next whole frame off the front of `buf`, or leaves it untouched if it is not complete.
pub(crate) fn next_frame(buf: &mut BytesMut, limit: u32) -> Result<Option<Frame>, FrameError> {
    let Some(&[s0, s1, s2, s3, offset, kind, c0, c1]) = buf.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > limit {
        return Err(FrameError::TooLarge { size, limit });
    }
    let data_at = usize::from(offset) * 4;
    if data_at < HEADER_LEN || (size as usize) < data_at {
        return Err(FrameError::Malformed { size, offset });
    }
    let frame_type = match kind {
        0 => FrameType::Amqp,
        1 => FrameType::Sasl,
        other => return Err(FrameError::Type(other)),
    };
    if buf.len() < size as usize {
        return Ok(None);
    }
    let mut body = buf.split_to(size as usize).freeze();
    body.advance(data_at);
    Ok(Some(Frame {
        frame_type,
        channel: u16::from_be_bytes([c0, c1]),
        body,
    }))
}

/// Writes a frame around what `write` puts into the buffer.
pub(crate) fn put_frame(
    buf: &mut BytesMut,
    frame_type: FrameType,
    channel: u16,
    write: impl FnOnce(&mut BytesMut),
) {
    let start = buf.len();
    buf.put_u32(0);
    buf.put_slice(&[2, if frame_type == FrameType::Sasl { 1 } else { 0 }]);
    buf.put_u16(channel);
    write(buf);
    let size = len_u32(buf.len() - start);
    if let Some(room) = buf.get_mut(start..start + 4) {
        room.copy_from_slice(&size.to_be_bytes());
    }
}
