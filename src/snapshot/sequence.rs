//! The rules for the chunks of one file: what may follow what, and how a body is checked.

use kvorum_protocol::LogIndex;

use super::layout::{CHUNK_HEADER_BYTES, ChunkHeader, Fault, Kind, Totals};
use crate::core::sessions::Session;
use crate::core::store::EncodedItem;
use crate::disk::BLOCK_BYTES;

/// A chunk and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number, from 0.
    pub chunk: u64,
    /// Where in the file it starts.
    pub offset: u64,
    /// What it says of itself.
    pub header: ChunkHeader,
}

impl Place {
    /// How many bytes of the file the chunk takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        padded_bytes(self.header.body_bytes as usize)
    }

    /// The body of the chunk, whose bytes up to the end of the last block are `bytes`.
    ///
    /// # Errors
    /// They are not what was written.
    pub fn body<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let behind = bytes.get(CHUNK_HEADER_BYTES..).ok_or(Fault::Cut)?;
        let body_bytes = self.header.body_bytes as usize;
        let (body, padding) = behind.split_at_checked(body_bytes).ok_or(Fault::Cut)?;
        if crc32fast::hash(body) != self.header.body_crc {
            return Err(Fault::BodyChecksum);
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Fault::Padding);
        }
        Ok(body)
    }

    /// Gives `each` the items in the body of this chunk, which was cut at `cut`.
    ///
    /// # Errors
    /// What is there is not what the header says; or what `each` says.
    #[inline]
    pub fn items<'a>(
        &self,
        mut body: &'a [u8],
        cut: LogIndex,
        mut each: impl FnMut(EncodedItem<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for _ in 0..self.header.items {
            let (item, rest) = EncodedItem::decode(body).map_err(Fault::Body)?;
            if item.version > cut {
                return Err(Fault::TooNew);
            }
            each(item)?;
            body = rest;
        }
        if body.is_empty() { Ok(()) } else { Err(Fault::Count("keys")) }
    }

    /// The same for sessions.
    ///
    /// # Errors
    /// As there.
    pub fn sessions(
        &self,
        mut body: &[u8],
        cut: LogIndex,
        mut each: impl FnMut(LogIndex, Session) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for _ in 0..self.header.items {
            let (id, session, rest) = Session::decode(body).map_err(Fault::Body)?;
            if session.last_used > cut {
                return Err(Fault::TooNew);
            }
            each(id, session)?;
            body = rest;
        }
        if body.is_empty() { Ok(()) } else { Err(Fault::Count("sessions")) }
    }

    /// Whether an item of this shard may be in this chunk.
    #[inline]
    #[must_use]
    pub fn may_hold(&self, shard: u16) -> bool {
        let header = &self.header;
        header.kind == Kind::Strays || (header.first_shard..=header.last_shard).contains(&shard)
    }
}

/// How many bytes of a file a chunk with such a body takes.
#[must_use]
pub fn padded_bytes(body_bytes: usize) -> usize {
    (CHUNK_HEADER_BYTES + body_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Follows the chunks of a file, header by header.
#[derive(Debug)]
pub struct Sequence {
    file_bytes: u64,
    /// Where the next chunk starts, its number, and the header checksum of the one before.
    next: (u64, u64, u32),
    /// Of the last chunk with items.
    last_shard: u16,
    /// What has come; the bytes too, once the last chunk has come.
    totals: Totals,
    has_ended: bool,
}

impl Sequence {
    /// Of a file of so many bytes.
    #[must_use]
    pub fn new(file_bytes: u64) -> Sequence {
        let totals = Totals::default();
        Sequence { file_bytes, next: (0, 0, 0), last_shard: 0, totals, has_ended: false }
    }

    /// Where the next chunk starts.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.next.0
    }

    /// The number of the next chunk, from 0.
    #[must_use]
    pub fn chunk(&self) -> u64 {
        self.next.1
    }

    /// Whether the last chunk has come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// What the headers add up to.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The next header is there as a whole.
    ///
    /// # Errors
    /// The file ends before.
    pub fn expect_header(&self) -> Result<(), Fault> {
        let end = self.offset() + CHUNK_HEADER_BYTES as u64;
        if end <= self.file_bytes { Ok(()) } else { Err(Fault::Cut) }
    }

    /// The next header.
    ///
    /// # Errors
    /// It can not come next.
    pub fn next(&mut self, header: &[u8; CHUNK_HEADER_BYTES]) -> Result<Place, Fault> {
        let (header, crc) = ChunkHeader::decode(header)?;
        let (offset, chunk, prev) = self.next;
        if header.prev != prev {
            return Err(Fault::Chain);
        }
        if (header.kind == Kind::Head) != (chunk == 0) || self.has_ended {
            return Err(Fault::Order);
        }
        let place = Place { chunk, offset, header };
        let end = offset + place.bytes() as u64;
        if end > self.file_bytes {
            return Err(Fault::Cut);
        }
        match header.kind {
            Kind::Items if header.first_shard < self.last_shard => return Err(Fault::Shards),
            Kind::Items => self.last_shard = header.last_shard,
            Kind::End if end < self.file_bytes => return Err(Fault::TrailingBytes),
            Kind::End => self.has_ended = true,
            Kind::Head | Kind::Sessions | Kind::Strays => {}
        }
        match header.kind {
            Kind::Items | Kind::Strays => self.totals.keys += u64::from(header.items),
            Kind::Sessions => self.totals.sessions += u64::from(header.items),
            Kind::Head | Kind::End if header.items > 0 => return Err(Fault::Count("items")),
            Kind::Head | Kind::End => {}
        }
        self.totals.chunks = chunk + 1;
        self.totals.bytes = end;
        self.next = (end, chunk + 1, crc);
        Ok(place)
    }

    /// The body of the last chunk, when `keys` is what the first one says.
    ///
    /// # Errors
    /// There is not as much as they say.
    pub fn check_totals(&self, body: &[u8], keys: u64) -> Result<(), Fault> {
        let said = Totals::decode(body).map_err(Fault::Body)?;
        let found = &self.totals;
        for (what, said, found) in [
            ("chunks", said.chunks, found.chunks),
            ("keys", said.keys, found.keys),
            ("keys", keys, found.keys),
            ("sessions", said.sessions, found.sessions),
            ("bytes", said.bytes, found.bytes),
        ] {
            if said != found {
                return Err(Fault::Count(what));
            }
        }
        Ok(())
    }
}
