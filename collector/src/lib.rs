//! The collector, one per fleet: batches in, incidents out.
//!
//! ```text
//! agents  =>  ingest -> store -> detect -> incident -> notify
//!                         └> web
//! ```

pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod files;
pub mod model;
pub mod store;
