//! Reports: capacity, outages and noise, as pages that justify a decision.
//!
//! ```text
//! store -> gather -> capacity | outage | noise -> document -> render: html, text, csv, json
//!                    forecast, advice, plans
//! ```
//!
//! Only `gather` reads; everything after it is pure. A figure is put into the document once, with its
//! unit and definition, so every format tells the same numbers.

pub mod advice;
pub mod ask;
pub mod gather;
pub mod capacity;
pub mod document;
pub mod forecast;
mod column;
mod words;
pub mod need;
pub mod noise;
pub mod outage;
pub mod plans;
pub mod settings;
pub mod render;
