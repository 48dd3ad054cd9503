//! Signs the body of a webhook.
//!
//! Header `X-Gatewatch-Signature: t=UNIX_SECONDS,v1=HEX`, where HEX is HMAC-SHA256 of `t.body` with
//! the key of `secret_file`. The key is read for each try, so it can be changed without a restart.

use std::path::Path;

use ring::hmac;
use wire::UnixMillis;

use super::fault::Wrong;
use super::secret::{self, Secret};
use crate::ca::hex;

/// Header that carries the signature.
pub const SIGNATURE_HEADER: &str = "X-Gatewatch-Signature";

/// The value of the signature header for a body sent at `now`.
#[must_use]
pub fn signature(key: &[u8], now: UnixMillis, body: &str) -> String {
    let t = now.second();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{t}.{body}").as_bytes());
    format!("t={t},v1={}", hex(tag.as_ref()))
}

/// Reads the key of a webhook; `Err` names the file and the fix.
pub fn read_secret(path: &Path) -> Result<Secret, Wrong> {
    let key = secret::read(path)?;
    if key.expose().len() < 16 {
        let shown = path.display();
        let what = format!("{shown}: shorter than 16 bytes");
        return Err(Wrong::new(what, "`openssl rand -hex 32` makes a key"));
    }
    Ok(key)
}
