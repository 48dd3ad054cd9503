//! Stage 6: the agents' port. Bytes of strangers in, batches for the store out.

pub mod convert;
pub mod counts;
pub mod enroll;
