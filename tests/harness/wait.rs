//! Waiting: polls often with a long limit and prints the last state seen.

use std::time::Duration;

use crate::clock;

const POLL: Duration = Duration::from_millis(40);

/// Polls `probe` until it is `Ok`; after `limit` panics with the last thing it said.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let started = clock::instant();
    loop {
        match probe() {
            Ok(found) => return found,
            Err(state) if started.elapsed() > limit => {
                panic!("not within {limit:?}: {what}\nlast state: {state}")
            }
            Err(_) => pause(POLL),
        }
    }
}

/// Gives up the processor for `span`: the pace of a load, never a wait for a result.
pub fn pause(span: Duration) {
    let started = clock::instant();
    while let Some(left) = span.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
