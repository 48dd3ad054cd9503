//! The contract between agent and collector: wire types, metric catalog, vocabulary, time.
//!
//! Imported as `wire` by both programs. Nothing here does IO.

mod body;
pub mod catalog;
pub mod said;
pub mod signal;
#[cfg(test)]
mod reach;
mod time;
pub mod units;

pub use body::{
    BODY_BYTES_MAX, BODY_UNPACKED_BYTES_MAX, CODEC_ZSTD_BODY, CODEC_ZSTD_DICTIONARY,
    PROTOCOL_DICTIONARY, dictionary,
};
pub use time::{UnixMillis, rfc3339};

/// Protocol versions this build speaks, lowest and highest. 2 brought [`CODEC_ZSTD_DICTIONARY`].
pub const PROTOCOL_VERSIONS: (u32, u32) = (1, 2);

/// Name every collector certificate is for, so that the collector may move to any address.
pub const COLLECTOR_NAME: &str = "collector.gatewatch";

/// Generated from `gatewatch/v1/*.proto`.
#[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("gatewatch.v1");
}
