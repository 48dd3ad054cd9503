//! Steps that may hang, on a thread of their own: whatever hangs is not waited for, and a further step
//! does not pile up behind it.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use crate::timer::{patience, within};

/// Longest wait for a look at the kernel's lists and at files.
const LIMIT: Duration = patience(Duration::from_secs(2));

/// What a step works on.
pub(super) type Shared<T> = Arc<Mutex<T>>;

/// The result of one step; `None` when it takes too long, or one before it still does.
pub(super) async fn beside<T: Send + 'static, R: Send + 'static>(
    shared: &Shared<T>,
    step: impl FnOnce(&mut T) -> R + Send + 'static,
) -> Option<R> {
    beside_for(LIMIT, shared, step).await
}

async fn beside_for<T: Send + 'static, R: Send + 'static>(
    limit: Duration,
    shared: &Shared<T>,
    step: impl FnOnce(&mut T) -> R + Send + 'static,
) -> Option<R> {
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || match shared.try_lock() {
        Ok(mut held) => Some(step(&mut held)),
        // A step that panicked left at worst a look that is taken anew.
        Err(TryLockError::Poisoned(held)) => Some(step(&mut held.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    });
    within(limit, done).await?.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody_and_no_more_than_one_thread() {
        let shared = Arc::new(Mutex::new(0_u32));
        let (release, hung) = mpsc::channel::<()>();
        let short = Duration::from_millis(50);
        let step = move |n: &mut u32| {
            *n += 1;
            assert!(hung.recv().is_err(), "until nobody holds it");
        };
        assert_eq!(beside_for(short, &shared, step).await, None, "it hangs");
        assert_eq!(beside(&shared, |n| *n).await, None, "and is not waited for again");
        drop(release);
        let started = crate::clock::instant();
        while beside(&shared, |n| *n).await != Some(1) {
            assert!(started.elapsed() < Duration::from_secs(60), "it never came back");
        }
    }
}
