//! Who this server is: its key and certificate, how it joins a fleet and stays in it.
//!
//! `STATE_DIR/identity.json` (0600) holds all of it in one file, replaced as a whole, so key and
//! certificate always match. The key of an enrolment under way is in `enroll.key` (0600) until its
//! answer is stored: asking again with the same key is how the collector knows that the first
//! answer was lost. The key is never printed and never leaves the machine.

mod machine;
mod tls;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::UnixMillis;
use wire::v1::enrollment_client::EnrollmentClient;
use wire::v1::{EnrollRequest, RenewRequest};

pub(crate) use machine::labels as detected_labels;
pub use tls::{CaHash, LinkError};
pub(crate) use tls::{Connector, Trust};

use crate::backoff::Backoff;
use crate::{clock, files};

const FILE: &str = "identity.json";
const PENDING_KEY: &str = "enroll.key";
/// Holds the SHA-256 of the certificate that the collector refuses.
const REFUSED: &str = "refused";
/// Longest wait for the answer to `Enroll` or `Renew`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Clock and identity file are looked at this often: the clock may jump (suspend, a wrong one set
/// right), and `enroll` may have written another identity.
const RENEWAL_CHECK: Duration = Duration::from_secs(10);
/// Largest wait before the first retry.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// Largest wait between two tries to renew: ten days remain when the first fails.
const RENEWAL_RETRY_MAX: Duration = Duration::from_secs(3600);
/// HTTP/2 windows: a batch of the largest size never waits for the other side to grant more.
const WINDOW_BYTES: u32 = 2 << 20;

/// What `identity.json` holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the file.
    version: u32,
    /// Name the collector filed this server under.
    pub server: String,
    /// `HOST:PORT` of the collector it enrolled with.
    pub collector: String,
    /// Labels given to `enroll`, weaker than those of the config.
    pub labels: BTreeMap<String, String>,
    /// End of the certificate.
    #[serde(with = "wire::rfc3339")]
    pub not_after: UnixMillis,
    /// When to renew it.
    #[serde(with = "wire::rfc3339")]
    pub renew_after: UnixMillis,
    /// DER in hex.
    ca: String,
    certificate: String,
    /// PKCS#8 in hex.
    key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key: this may reach a log.
        f.debug_struct("Identity").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why there is no identity, or no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: is it owned by the user this runs as?")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// The file is there and makes no sense.
    #[error("{path} is damaged ({reason}): move it away and enrol again with a new token")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The collector said no.
    #[error("the collector at {address} refused {what}: {reason}{fix}")]
    Refused {
        /// Where.
        address: String,
        /// `the enrolment` or `the renewal`.
        what: &'static str,
        /// In its words.
        reason: String,
        /// What to do, with its own separator.
        fix: &'static str,
    },
    /// The answer cannot be used, or the call failed on the way.
    #[error("the collector at {address} gave no usable answer: {reason}")]
    Answer {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// A key could not be made.
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    /// TLS would not take key or certificate.
    #[error("key or certificate cannot be used")]
    Tls(#[from] rustls::Error),
}

/// What `enroll` was asked.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Where identity goes.
    pub state_dir: PathBuf,
    /// `HOST:PORT`.
    pub collector: String,
    /// Join token.
    pub token: String,
    /// Of the fleet's CA.
    pub ca_hash: CaHash,
    /// Name this server wants.
    pub name: String,
    /// Labels of command line and config.
    pub labels: BTreeMap<String, String>,
    /// Labels the agent found out.
    pub detected: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// A new certificate.
    New(Identity),
    /// Nothing had to be done: enrolled with this CA before, the certificate is valid.
    Already(Identity),
}

impl Identity {
    /// Reads the identity; `None` when this server is not enrolled.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = state_dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { action: "read", path, source }),
        };
        let damaged = |reason: String| IdentityError::Damaged { path: path.clone(), reason };
        let identity: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if identity.version != 1 {
            return Err(damaged(format!("format {}, this agent reads 1", identity.version)));
        }
        for (what, hex) in
            [("ca", &identity.ca), ("certificate", &identity.certificate), ("key", &identity.key)]
        {
            if from_hex(hex).is_none() {
                return Err(damaged(format!("{what} is no hex")));
            }
        }
        Ok(Some(identity))
    }

    fn save(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let path = state_dir.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).expect("strings and numbers");
        files::replace(&path, &bytes, 0o600).map_err(|source| IdentityError::File {
            action: "write",
            path,
            source,
        })
    }

    /// SHA-256 of the fleet's CA certificate.
    pub fn ca_hash(&self) -> CaHash {
        CaHash::of(&from_hex(&self.ca).unwrap_or_default())
    }

    /// Notes that the collector refuses this certificate; only then does `enroll` replace a valid one.
    pub(crate) fn mark_refused(&self, state_dir: &Path) {
        let path = state_dir.join(REFUSED);
        let mark = CaHash::of(self.certificate.as_bytes()).to_string();
        if !self.is_refused(state_dir)
            && let Err(error) = files::replace(&path, mark.as_bytes(), 0o600)
        {
            tracing::warn!(path = %path.display(), %error, "the refusal could not be noted");
        }
    }

    fn is_refused(&self, state_dir: &Path) -> bool {
        let mark = CaHash::of(self.certificate.as_bytes()).to_string();
        fs::read_to_string(state_dir.join(REFUSED)).is_ok_and(|noted| noted == mark)
    }

    /// A connector with this identity to `address`.
    pub(crate) fn connector(
        &self,
        address: &str,
        clock: fn() -> UnixMillis,
    ) -> Result<Connector, IdentityError> {
        let bytes = |hex: &str| from_hex(hex).expect("checked when it was read");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(bytes(&self.key)));
        let certificate = CertificateDer::from(bytes(&self.certificate));
        let trust = Trust::Ca(CertificateDer::from(bytes(&self.ca)));
        Ok(Connector::new(address, trust, Some((certificate, key)), clock)?)
    }
}

/// Joins the fleet: makes a key, gets a certificate for it, stores both.
///
/// Idempotent: enrolled with the same CA and a valid certificate, it only takes over the address.
/// Interrupted at any point it can be run again with the same command.
pub async fn enroll(ask: &Enrolment, now: UnixMillis) -> Result<Enrolled, IdentityError> {
    if let Some(mut known) = Identity::load(&ask.state_dir)?
        && known.ca_hash() == ask.ca_hash
        && known.not_after > now
        && !known.is_refused(&ask.state_dir)
    {
        if known.collector != ask.collector || known.labels != ask.labels {
            known.collector.clone_from(&ask.collector);
            known.labels.clone_from(&ask.labels);
            known.save(&ask.state_dir)?;
        }
        return Ok(Enrolled::Already(known));
    }
    let pending = ask.state_dir.join(PENDING_KEY);
    let key = pending_key(&ask.state_dir, &pending)?;
    let connector = Connector::new(&ask.collector, Trust::Pin(ask.ca_hash), None, clock::now)?;
    let request = EnrollRequest {
        token: ask.token.clone(),
        csr_der: signing_request(&key, &ask.name)?,
        name: ask.name.clone(),
        labels: ask.labels.clone(),
        detected: ask.detected.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_version: wire::PROTOCOL_VERSIONS.1,
    };
    let channel = channel(&connector).await?;
    let mut client = EnrollmentClient::new(channel);
    let answer = client.enroll(timed(request)).await;
    let answer =
        answer.map_err(|status| refused(&connector, &ask.collector, "the enrolment", &status));
    let answer = answer?.into_inner();
    if CaHash::of(&answer.ca_der) != ask.ca_hash {
        return Err(IdentityError::Answer {
            address: ask.collector.clone(),
            reason: "its CA is not the one it showed".to_owned(),
        });
    }
    let identity = Identity {
        version: 1,
        server: answer.server,
        collector: ask.collector.clone(),
        labels: ask.labels.clone(),
        not_after: UnixMillis(answer.not_after_unix_ms),
        renew_after: UnixMillis(answer.renew_after_unix_ms),
        ca: to_hex(&answer.ca_der),
        certificate: to_hex(&answer.certificate_der),
        key: to_hex(&key.serialize_der()),
    };
    identity.usable(&ask.collector)?;
    identity.save(&ask.state_dir)?;
    if let Err(error) = fs::remove_file(&pending) {
        tracing::warn!(path = %pending.display(), %error, "the key file of the enrolment stays");
    }
    Ok(Enrolled::New(identity))
}

/// Gets the next certificate over the present one, and stores it.
pub(crate) async fn renew(
    identity: &Identity,
    address: &str,
    state_dir: &Path,
) -> Result<Identity, IdentityError> {
    let key = KeyPair::generate()?;
    let connector = identity.connector(address, clock::now)?;
    let mut client = EnrollmentClient::new(channel(&connector).await?);
    let request = RenewRequest { csr_der: signing_request(&key, &identity.server)? };
    let answer = client.renew(timed(request)).await;
    let answer = answer.map_err(|status| refused(&connector, address, "the renewal", &status));
    let answer = answer?.into_inner();
    let renewed = Identity {
        not_after: UnixMillis(answer.not_after_unix_ms),
        renew_after: UnixMillis(answer.renew_after_unix_ms),
        certificate: to_hex(&answer.certificate_der),
        key: to_hex(&key.serialize_der()),
        ..identity.clone()
    };
    // The CA stays the one that was enrolled with: a renewal is no way to change whom we trust.
    renewed.usable(address)?;
    renewed.save(state_dir)?;
    Ok(renewed)
}

/// Renews the certificate at two thirds of its life, for ever; tells the uplink by `identity`.
pub(crate) async fn keep_fresh(
    state_dir: PathBuf,
    address: String,
    identity: watch::Sender<Arc<Identity>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(RENEWAL_RETRY, RENEWAL_RETRY_MAX);
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a timer.
            () = tokio::time::sleep(wait) => {}
        }
        let mut present = Arc::clone(&identity.borrow());
        // Damaged or gone: this process goes on with what it has.
        if let Ok(Some(stored)) = Identity::load(&state_dir)
            && stored != *present
        {
            tracing::info!(server = stored.server, not_after = %stored.not_after, "enrolled anew");
            present = Arc::new(stored);
            identity.send_replace(Arc::clone(&present));
        }
        if clock::now() < present.renew_after {
            wait = RENEWAL_CHECK;
            continue;
        }
        let renewal = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Not cancel-safe, but a lost answer only costs another certificate at the next start.
            renewal = renew(&present, &address, &state_dir) => renewal,
        };
        wait = match renewal {
            Ok(renewed) => {
                backoff.reset();
                tracing::info!(not_after = %renewed.not_after, "certificate renewed");
                identity.send_replace(Arc::new(renewed));
                RENEWAL_CHECK
            }
            Err(error) => {
                let (not_after, error) = (present.not_after, crate::chain(&error));
                if not_after <= clock::now() {
                    tracing::error!(%not_after, %error, "the certificate has expired: enrol again");
                } else {
                    tracing::warn!(%not_after, %error, "certificate not renewed, trying again");
                }
                backoff.next(crate::random_unit())
            }
        };
    }
}

/// A channel over a new connection; one connection, never silently reconnected.
pub(crate) async fn channel(connector: &Connector) -> Result<Channel, IdentityError> {
    // The authority is never looked up: the connector knows where to go, TLS whom to expect.
    let endpoint = Endpoint::from_static("http://collector.gatewatch")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let dial = connector.clone();
    let service = tower::service_fn(move |_: http::Uri| {
        let dial = dial.clone();
        async move { dial.connect().await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(service).await.map_err(|error| match connector.take_fault() {
        Some(fault) => fault.into(),
        None => IdentityError::Answer {
            address: connector.address().to_owned(),
            reason: crate::chain(&error),
        },
    })
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}

fn refused(
    connector: &Connector,
    address: &str,
    what: &'static str,
    status: &Status,
) -> IdentityError {
    if let Some(fault) = connector.take_fault() {
        return fault.into();
    }
    let address = address.to_owned();
    let reason = status.message().to_owned();
    let fix = match status.code() {
        Code::FailedPrecondition | Code::Unimplemented => "; upgrade the older of the two programs",
        Code::Unauthenticated
        | Code::AlreadyExists
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::ResourceExhausted => "",
        _ => {
            return IdentityError::Answer {
                address,
                reason: format!("{:?}: {reason}", status.code()),
            };
        }
    };
    IdentityError::Refused { address, what, reason, fix }
}

impl Identity {
    /// What the collector sent must make a working TLS client before it replaces anything.
    fn usable(&self, address: &str) -> Result<(), IdentityError> {
        match self.connector(address, clock::now) {
            Ok(_) if self.not_after > self.renew_after && !self.server.is_empty() => Ok(()),
            Ok(_) => Err(IdentityError::Answer {
                address: address.to_owned(),
                reason: "its certificate ends before it is to be renewed".to_owned(),
            }),
            Err(error) => Err(IdentityError::Answer {
                address: address.to_owned(),
                reason: crate::chain(&error),
            }),
        }
    }
}

/// The key of an enrolment that was interrupted, else a new one; on disk before it is used.
fn pending_key(state_dir: &Path, path: &Path) -> Result<KeyPair, IdentityError> {
    if let Some(key) = fs::read_to_string(path).ok().and_then(|pem| KeyPair::from_pem(&pem).ok()) {
        return Ok(key);
    }
    let file = |source| IdentityError::File { action: "write", path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(file)?;
    let key = KeyPair::generate()?;
    files::replace(path, key.serialize_pem().as_bytes(), 0o600).map_err(file)?;
    Ok(key)
}

fn signing_request(key: &KeyPair, name: &str) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn to_hex(bytes: &[u8]) -> String {
    tls::to_hex(bytes)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16);
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| Some((value(pair[0])? * 16 + value(*pair.get(1)?)?) as u8))
        .collect::<Option<Vec<u8>>>()
}

#[cfg(test)]
mod tests;
