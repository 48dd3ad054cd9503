//! The contract between agent and collector: wire types, metric catalog, vocabulary, time.
//!
//! Imported as `wire` by both programs. Nothing here does IO.

pub mod catalog;
pub mod said;
pub mod signal;
#[cfg(test)]
mod reach;
mod time;
pub mod units;

pub use time::{UnixMillis, rfc3339};

/// Protocol versions this build speaks, lowest and highest.
pub const PROTOCOL_VERSIONS: (u32, u32) = (1, 1);

/// `Batch.codec` of a zstd frame that holds one [`v1::BatchBody`].
pub const CODEC_ZSTD_BODY: u32 = 1;

/// Largest compressed `Batch.body`, in bytes; the agent splits, the collector refuses.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Largest decompressed body, in bytes: the bound on what a hostile frame may unpack to.
pub const BODY_UNPACKED_BYTES_MAX: usize = 16 << 20;

/// Name every collector certificate is for, so that the collector may move to any address.
pub const COLLECTOR_NAME: &str = "collector.gatewatch";

/// Generated from `gatewatch/v1/*.proto`.
#[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("gatewatch.v1");
}
