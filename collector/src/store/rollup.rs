//! Month files: one value set per hour.

use wire::UnixMillis;

use super::StoreError;
use super::keeper::Keeper;

/// Rolls up the days that are due.
pub(super) async fn pass(_keeper: &Keeper, _now: UnixMillis) -> Result<(), StoreError> {
    Ok(())
}
