//! Writes a report as HTML, terminal text, CSV and JSON. Pure.
//!
//! Invariant: a number is the same in all of them. JSON and CSV have it whole, in the unit of its
//! column; HTML has it whole in the attribute `value` of `<data>`, and shows what the text shows.
//! Texts of strangers are escaped here and nowhere before.

mod chart;
mod csv;
mod figure;
mod html;
mod json;
mod mail;
mod picture;
mod table;
mod text;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod looks_tests;

use super::document::Report;

pub use csv::{csv, csv_table};
pub use json::json;
pub use text::text;

/// Where HTML is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// A page of its own: in a browser, printed, attached to a mail.
    #[default]
    Page,
    /// The body of an e-mail: short, without pictures, styles written out.
    Mail,
}

/// How HTML is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HtmlOptions {
    /// Where it is read.
    pub medium: Medium,
    /// Where the whole report is, for the button of a mail; `None`: no button.
    pub link: Option<String>,
}

/// The report as one HTML file that fetches nothing and runs nothing.
#[must_use]
pub fn html(report: &Report, options: &HtmlOptions) -> String {
    match options.medium {
        Medium::Page => html::page(report),
        Medium::Mail => mail::mail(report, options.link.as_deref()),
    }
}
