//! A door for the fuzz targets of `tests/`: any bytes as what others answer to the probes.

use super::{pools, upstreams};

/// Reads these bytes as every answer there is; each parser must end, without a panic.
pub fn read(bytes: &[u8]) {
    upstreams::fuzzing::read(bytes);
    pools::fuzzing::read(bytes);
}
