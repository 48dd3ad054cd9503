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
pub mod discover;
pub mod files;
pub mod logs;
pub mod window;
pub mod spool;
