//! Opens bodies within fixed bounds of memory and time, pure.

use std::io::Read;
use std::sync::LazyLock;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use thiserror::Error;
use wire::v1::BatchBody;
use wire::{
    BODY_BYTES_MAX, BODY_UNPACKED_BYTES_MAX, CODEC_ZSTD_BODY, CODEC_ZSTD_DICTIONARY, dictionary,
};
use zstd::dict::DecoderDictionary;
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_error_name, get_frame_content_size};

/// Largest number of entries (sites, seconds, ...) in a body: bounds what tiny messages grow to.
pub(super) const ENTRIES_MAX: usize = 1 << 20;
/// Base-2 logarithm of the largest window a zstd frame may ask memory for.
pub(super) const WINDOW_LOG_MAX: u32 = 24;
/// Bytes that an unpacker keeps for the next body; what a large one took is given back.
pub(super) const KEPT_BYTES_MAX: usize = 1 << 20;

static DICTIONARY: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(dictionary()));

/// How much of a body is read.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) packed: usize,
    pub(super) unpacked: usize,
    pub(super) entries: usize,
}

/// What any body may be.
pub(super) const ANY: Bounds =
    Bounds { packed: BODY_BYTES_MAX, unpacked: BODY_UNPACKED_BYTES_MAX, entries: ENTRIES_MAX };
/// What is read within a millisecond or so, whatever is in it.
pub(super) const SMALL: Bounds = Bounds { packed: 32 << 10, unpacked: 128 << 10, entries: 4096 };

/// Why a batch's body cannot be read. The text is stored in its place.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// A later release's encoding, or nonsense.
    #[error("codec {0} is not known to this collector: upgrade it")]
    Codec(u32),
    /// The agent found its own record damaged and sends only its place.
    #[error("the agent's spool had damaged it")]
    Spool,
    /// Larger than the agent may send.
    #[error("the body has {0} bytes, more than {BODY_BYTES_MAX}")]
    TooLarge(usize),
    /// No zstd frame, or a broken one.
    #[error("the body is no zstd frame: {0}")]
    Compression(String),
    /// A frame that unpacks to more than is allowed.
    #[error("the body unpacks to more than {BODY_UNPACKED_BYTES_MAX} bytes")]
    Bomb,
    /// A message of millions of tiny parts.
    #[error("the body has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    /// No `BatchBody`.
    #[error("the body is no BatchBody: {0}")]
    Message(String),
}

/// A body that was opened, and what it may take of memory.
#[derive(Debug)]
pub struct Opened {
    /// What is in it.
    pub body: BatchBody,
    /// The most bytes of memory it can take.
    pub n_bytes_max: usize,
}

/// Opens a body within fixed bounds of memory.
pub fn unpack(codec: u32, packed: &[u8]) -> Result<BatchBody, Reason> {
    Ok(Unpacker::default().open(codec, packed, ANY)?.body)
}

/// Opens bodies one after the other: making what zstd needs takes longer than reading a small one.
#[derive(Default)]
pub struct Unpacker {
    pub(super) context: DCtx<'static>,
    pub(super) bytes: Vec<u8>,
}

impl Unpacker {
    /// Opens a body within fixed bounds of memory.
    pub fn unpack(&mut self, codec: u32, packed: &[u8]) -> Result<BatchBody, Reason> {
        Ok(self.open(codec, packed, ANY)?.body)
    }

    pub(super) fn open(
        &mut self,
        codec: u32,
        packed: &[u8],
        most: Bounds,
    ) -> Result<Opened, Reason> {
        if codec == 0 {
            return Err(Reason::Spool);
        }
        let has_dictionary = match codec {
            CODEC_ZSTD_BODY => false,
            CODEC_ZSTD_DICTIONARY => true,
            codec => return Err(Reason::Codec(codec)),
        };
        if packed.len() > most.packed {
            return Err(Reason::TooLarge(packed.len()));
        }
        self.bytes.clear();
        let inflated = match first_frame(packed) {
            Some((frame, n_bytes)) if frame.len() == packed.len() || !has_dictionary => {
                self.inflate_at_once(frame, has_dictionary, n_bytes, most.unpacked)
            }
            _ if has_dictionary => {
                Err(Reason::Compression("it is not one frame that says its size".to_owned()))
            }
            _ => self.inflate(packed, most.unpacked),
        };
        let opened = inflated.and_then(|()| parse(&self.bytes, most));
        if self.context.sizeof() > KEPT_BYTES_MAX {
            self.context = DCtx::default();
        }
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        opened
    }

    /// A frame that says how large it is, as agents make them: whatever window it names, zstd takes no memory
    /// but where the body goes.
    fn inflate_at_once(
        &mut self,
        frame: &[u8],
        has_dictionary: bool,
        n_bytes: u64,
        n_bytes_max: usize,
    ) -> Result<(), Reason> {
        let n_bytes = usize::try_from(n_bytes).ok().filter(|n| *n <= n_bytes_max);
        self.bytes.reserve(n_bytes.ok_or(Reason::Bomb)?);
        let done = if has_dictionary {
            let dictionary = DICTIONARY.as_ddict();
            self.context.decompress_using_ddict(&mut self.bytes, frame, dictionary)
        } else {
            self.context.decompress(&mut self.bytes, frame)
        };
        done.map_err(|code| Reason::Compression(get_error_name(code).to_owned()))?;
        Ok(())
    }

    /// Any frame, in small steps.
    fn inflate(&mut self, packed: &[u8], n_bytes_max: usize) -> Result<(), Reason> {
        /// Room for a usual body at once.
        const USUAL_BYTES: usize = 16 << 10;
        let broken = |error: std::io::Error| Reason::Compression(error.to_string());
        self.bytes.reserve(USUAL_BYTES);
        let mut decoder = zstd::stream::read::Decoder::with_context(packed, &mut self.context);
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
        let mut bounded = decoder.single_frame().take(n_bytes_max as u64 + 1);
        bounded.read_to_end(&mut self.bytes).map_err(broken)?;
        if self.bytes.len() > n_bytes_max { Err(Reason::Bomb) } else { Ok(()) }
    }
}

/// The first frame and the bytes in it, when it says how many.
fn first_frame(packed: &[u8]) -> Option<(&[u8], u64)> {
    let n_bytes = get_frame_content_size(packed).ok().flatten()?;
    let frame = packed.get(..find_frame_compressed_size(packed).ok()?)?;
    Some((frame, n_bytes))
}

fn parse(bytes: &[u8], most: Bounds) -> Result<Opened, Reason> {
    /// The most memory of a number that takes a byte, in a list that grew, and of an entry.
    const BYTE_GROWS: usize = 16;
    const ENTRY_BYTES: usize = 512;
    let n_entries = n_entries(bytes)?;
    if n_entries > most.entries {
        return Err(Reason::TooManyEntries);
    }
    let body = BatchBody::decode(bytes).map_err(|error| Reason::Message(error.to_string()))?;
    let n_bytes_max = bytes.len() * BYTE_GROWS + (n_entries + 1) * ENTRY_BYTES;
    Ok(Opened { body, n_bytes_max })
}

/// Counts the fields of a body and of its inventory without building them.
fn n_entries(body: &[u8]) -> Result<usize, Reason> {
    /// `BatchBody.inventory`.
    const INVENTORY: u32 = 11;
    let mut n = 0;
    let mut queue = vec![(body, true)];
    while let Some((mut rest, is_body)) = queue.pop() {
        while !rest.is_empty() {
            let (tag, value) = next_field(&mut rest)?;
            n += 1;
            if let (true, INVENTORY, Some(value)) = (is_body, tag, value) {
                queue.push((value, false));
            }
        }
    }
    Ok(n)
}

/// Takes one field off a message; its bytes when it is length-delimited.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Option<&'a [u8]>), Reason> {
    let broken = |error: prost::DecodeError| Reason::Message(error.to_string());
    let cut = || Reason::Message("a field is cut short".to_owned());
    let (tag, wire_type) = decode_key(rest).map_err(broken)?;
    let n_bytes = match wire_type {
        WireType::Varint => {
            decode_varint(rest).map_err(broken)?;
            return Ok((tag, None));
        }
        WireType::LengthDelimited => {
            usize::try_from(decode_varint(rest).map_err(broken)?).map_err(|_| cut())?
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::StartGroup | WireType::EndGroup => {
            return Err(Reason::Message("groups are not part of the contract".to_owned()));
        }
    };
    let (value, after) = rest.split_at_checked(n_bytes).ok_or_else(cut)?;
    *rest = after;
    Ok((tag, (wire_type == WireType::LengthDelimited).then_some(value)))
}
