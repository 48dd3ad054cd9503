//! One signed POST of one message.
//!
//! Header `X-Gatewatch-Signature: t=UNIX_SECONDS,v1=HEX`, where HEX is HMAC-SHA256 of `t.body` with
//! the key of `secret_file`. The key is read for each try, so it can be changed without a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Url, redirect};
use ring::hmac;
use wire::UnixMillis;

use super::secret::{self, Secret};
use crate::ca::hex;
use crate::config::NotifyConfig;
use crate::errors;

/// Header that carries the signature.
pub const SIGNATURE_HEADER: &str = "X-Gatewatch-Signature";

/// Time a receiver has to accept the connection, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A receiver of messages.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: Client,
    url: Url,
    secret_file: PathBuf,
}

impl Webhook {
    /// `Err` says what is wrong with the configuration, and how to put it right.
    pub fn new(config: &NotifyConfig) -> Result<Self, String> {
        let (url, secret_file) = check(config)?;
        // `check` makes clients too, before `main` would have chosen the provider in a test.
        drop(rustls::crypto::ring::default_provider().install_default());
        // Redirects are not followed: the signature vouches for this receiver only.
        let client = Client::builder()
            .user_agent(concat!("gatewatch-collector/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|error| format!("no HTTP client could be made: {}", errors::chain(&error)))?;
        Ok(Self { client, url, secret_file })
    }

    /// Scheme and host, without the path: that may hold a secret.
    #[must_use]
    pub fn place(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Sends `body`; `Err` says why it did not arrive, without the URL.
    pub async fn send(&self, body: &str, now: UnixMillis) -> Result<(), String> {
        let key = read_secret(&self.secret_file)?;
        let answer = self
            .client
            .post(self.url.clone())
            .header("Content-Type", "application/json")
            .header(SIGNATURE_HEADER, signature(key.expose().as_bytes(), now, body))
            .body(body.to_owned())
            .send()
            .await
            .map_err(|error| errors::chain(&error.without_url()))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}")) }
    }
}

/// The value of the signature header for a body sent at `now`.
#[must_use]
pub fn signature(key: &[u8], now: UnixMillis, body: &str) -> String {
    let t = now.second();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{t}.{body}").as_bytes());
    format!("t={t},v1={}", hex(tag.as_ref()))
}

/// Reads the key of a webhook; `Err` names the file and the fix.
pub fn read_secret(path: &Path) -> Result<Secret, String> {
    let key = secret::read(path)?;
    if key.expose().len() < 16 {
        let shown = path.display();
        return Err(format!("{shown}: shorter than 16 bytes: `openssl rand -hex 32` makes a key"));
    }
    Ok(key)
}

/// What a `[[notify]]` table of this kind needs; `Err` says what is wrong with it.
pub fn check(config: &NotifyConfig) -> Result<(Url, PathBuf), String> {
    let url = config.url.as_deref().ok_or("url: is missing")?;
    let url = Url::parse(url).map_err(|error| format!("url: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("url: {:?} is not http or https", url.scheme()));
    }
    let Some(secret_file) = config.secret_file.clone() else {
        return Err(
            "secret_file: is missing; the receiver could not tell our messages from others".into(),
        );
    };
    read_secret(&secret_file).map_err(|why| format!("secret_file: {why}"))?;
    Ok((url, secret_file))
}
