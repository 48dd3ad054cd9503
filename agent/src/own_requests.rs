//! How the agent calls itself in the requests it makes, so that it knows them again in the logs.
//!
//! A part of the name is random and new at each start, so that nobody hides behind it: a request is
//! the agent's own if it has this very name and comes from this machine.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

/// What operators find in their logs: `gatewatch-probe/0123456789abcdef`.
pub(crate) fn user_agent() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let random = RandomState::new().hash_one(std::process::id());
        format!("gatewatch-probe/{random:016x}")
    });
    &NAME
}
