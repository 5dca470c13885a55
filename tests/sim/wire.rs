//! What goes over the wire: the frames of the real codec. Some links change bits, and then a node
//! closes the connection; what was changed never reaches its core.

use bytes::Bytes;
use kvorum_protocol::DecodeError;
use kvorum_protocol::peer::Message;
use kvorum_protocol::peer::frame::{Phase, frame_bytes};
use kvorum_protocol::peer::wire::{self, Frame};

use crate::chance::Chance;
use crate::invariants::{Checked, ensure};
use crate::network::Place;
use crate::node::{Input, id_of};
use crate::world::World;

/// The most bits that change in one frame: few enough for the checksums to notice for certain.
const FLIPS_MAX: u64 = 3;

/// The frame of a message.
pub fn encode(message: &Message) -> Bytes {
    let mut frame = Vec::new();
    for batch in wire::encode(message, &mut frame) {
        frame.extend_from_slice(batch.bytes());
    }
    frame.into()
}

fn decode(frame: &Bytes) -> Result<Message, DecodeError> {
    match frame_bytes(frame, Phase::Open)? {
        Some(length) if length == frame.len() => match wire::decode(frame)? {
            Frame::Message(message) => Ok(message),
            Frame::Durable { .. } => Err(DecodeError::Invalid("a frame that no core sends")),
        },
        // It would end within the next one, or begin it too early: nothing fits from here on.
        _ => Err(DecodeError::Invalid("frame length")),
    }
}

/// The frame with some bits changed.
pub fn flip_bits(chance: &mut Chance, frame: &Bytes) -> Bytes {
    let mut changed = frame.to_vec();
    let first = chance.below(changed.len() * 8);
    changed[first / 8] ^= 1 << (first % 8);
    for _ in 1..chance.between(1, FLIPS_MAX) {
        // Never the first one again: at least that stays changed.
        let bit = (first + 1 + chance.below(changed.len() * 8 - 1)) % (changed.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    changed.into()
}

impl World {
    /// A frame arrives on a connection that stands. `was_changed`: the link has flipped bits of it.
    pub fn take_frame(
        &mut self,
        from: Place,
        to: Place,
        frame: &Bytes,
        was_changed: bool,
    ) -> Checked {
        match decode(frame) {
            Ok(message) => {
                ensure(!was_changed, "what the wire has changed reaches no core", || {
                    format!("n{} takes {message:?}", to + 1)
                })?;
                self.give(to, Input::Message(id_of(from), message));
            }
            Err(error) => {
                ensure(was_changed, "what a node says can be read", || {
                    format!("n{} of n{}: {error}", to + 1, from + 1)
                })?;
                self.note_node(to, || format!("closes the connection to n{}: {error}", from + 1));
                self.network.disconnect(from, to);
                self.connect_soon(from, to);
            }
        }
        Ok(())
    }
}
