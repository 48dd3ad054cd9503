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
pub mod selfstats;
