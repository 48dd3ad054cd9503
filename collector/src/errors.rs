//! Errors as one line: what failed, and below it why.

use std::error::Error;

/// The error and all its sources, joined by colons: what the log field `error` carries.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
