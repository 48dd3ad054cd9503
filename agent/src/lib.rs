//! The agent, one per server: logs, probes and changes in, batches of closed windows out.
//!
//! ```text
//! discover > probes  ┐
//!            logs    ┼> window -> batch -> spool -> uplink  =>  collector
//!            changes ┘
//! ```

pub mod cli;
pub mod clock;
pub mod config;
pub mod files;
pub mod discover;
pub mod probes;
pub mod logs;
pub mod changes;
pub mod window;
pub mod batch;
pub mod gather;
pub mod spool;
pub mod uplink;
pub mod backoff;
pub mod identity;
pub mod selfstats;
pub mod status;

/// An error with all its causes, for logs and stderr.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Uniform over `0.0..1.0`, from the system; for jitter.
fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness retries are only less evenly spread.
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    if filled.is_err() { 0.5 } else { f64::from(u32::from_le_bytes(bytes)) / 4_294_967_296.0 }
}
