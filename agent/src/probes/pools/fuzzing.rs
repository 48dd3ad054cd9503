//! A door for the fuzz targets of `tests/`: any bytes as the answer of PHP-FPM.

use super::fastcgi;

/// Reads these bytes as an answer over FastCGI.
pub(crate) fn read(bytes: &[u8]) {
    if fastcgi::is_whole(bytes).is_ok_and(|is_whole| is_whole) {
        assert!(
            fastcgi::body(bytes).is_ok_and(|body| body.len() <= bytes.len())
                || fastcgi::body(bytes).is_err()
        );
    }
}
