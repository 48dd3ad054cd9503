//! What an agent is told when its stream cannot go on: the only place with codes for streams.
//!
//! UNAVAILABLE and RESOURCE_EXHAUSTED: come back later. ABORTED: come back at once, the answer to
//! hello says where to go on. The other codes need a person; the text says what to do.

use tonic::Status;

use crate::store::StoreError;

/// Metadata key: seconds to wait before coming back.
pub(super) const RETRY_AFTER: &str = "retry-after";

/// Wait asked of agents while the disk is full, seconds.
const FULL_RETRY_S: u32 = 10;

/// The store did not take a batch.
pub(super) fn from_store(error: &StoreError) -> Status {
    match error {
        StoreError::Full { .. } => {
            let text = "the collector's disk is full: keep the batches, its operator is told";
            let mut status = Status::resource_exhausted(text);
            status.metadata_mut().insert(RETRY_AFTER, FULL_RETRY_S.into());
            status
        }
        StoreError::Closed => draining(),
        _ => Status::unavailable("the collector's database does not answer: see its log"),
    }
}

/// The collector stops.
pub(super) fn draining() -> Status {
    Status::unavailable("the collector is stopping: come back")
}

/// The same server opened another stream.
pub(super) fn superseded() -> Status {
    Status::aborted(
        "another stream of this server took over: if it is not this agent's, two machines use one identity; enrol one of them anew",
    )
}

/// No client certificate, or one that names no server.
pub(super) fn no_identity(why: &str) -> Status {
    Status::unauthenticated(format!("{why}: enrol with `gatewatch-agent enroll`"))
}

/// The certificate was revoked.
pub(super) fn revoked() -> Status {
    Status::permission_denied(
        "the certificate was revoked: enrol again with a token of `gatewatch-collector token create --replace NAME`",
    )
}

/// The server was forgotten, or the certificate is of another data directory.
pub(super) fn unknown_server() -> Status {
    Status::permission_denied("this server is not in the fleet (any more): enrol again")
}

/// No protocol version in common.
pub(super) fn version(low: u32, high: u32) -> Status {
    let (ours_low, ours_high) = wire::PROTOCOL_VERSIONS;
    let fix = if low > ours_high { "update the collector" } else { "update the agent" };
    Status::failed_precondition(format!(
        "the agent speaks protocol {low} to {high}, this collector {ours_low} to {ours_high}: {fix}"
    ))
}

/// A message that makes no sense.
pub(super) fn broken(why: &str) -> Status {
    Status::invalid_argument(why.to_owned())
}

/// A batch is missing before the one that came.
pub(super) fn out_of_order(wanted: u64) -> Status {
    Status::aborted(format!("a batch is missing: send again from {wanted}"))
}

/// The batch is of an earlier life of the spool.
pub(super) fn old_epoch(known: u64) -> Status {
    Status::aborted(format!("the spool's epoch is older than {known}: raise it above"))
}

/// Nothing came for too long.
pub(super) fn silent() -> Status {
    Status::unavailable("no message for too long: connect again")
}

/// The agent does not take what it is sent.
pub(super) fn stuck() -> Status {
    Status::unavailable("the agent does not read its acks")
}
