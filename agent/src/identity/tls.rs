//! The agent's side of TLS: whom it trusts, and why a connection was refused, in words.
//!
//! The collector is known by its fleet's CA, not by its address: its certificate is always for
//! [`wire::COLLECTOR_NAME`]. While enrolling only the CA's SHA-256 is known, so the CA certificate
//! is looked for in the chain that the collector presents.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError,
    RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::UnixMillis;

/// Longest wait for name resolution, connection and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// SHA-256 of a CA certificate's DER, printed as `sha256:HEX`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaHash(pub [u8; 32]);

impl CaHash {
    /// The hash of this certificate.
    pub fn of(der: &[u8]) -> Self {
        Self(digest(&SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads `sha256:HEX`; the error is the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").and_then(super::from_hex);
        let hash = hex.and_then(|bytes| bytes.try_into().ok());
        hash.map(Self).ok_or_else(|| {
            "write sha256: and 64 hex digits, as `gatewatch-collector token create` printed it"
                .to_owned()
        })
    }
}

impl std::fmt::Display for CaHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", super::to_hex(&self.0))
    }
}

impl std::fmt::Debug for CaHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Why there is no connection; each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No TCP connection.
    #[error(
        "cannot reach the collector at {address} ({reason}): check the address, that the collector \
         runs, and that no firewall closes this port"
    )]
    Unreachable {
        /// As configured.
        address: String,
        /// From the operating system.
        reason: String,
    },
    /// Something else listens there.
    #[error(
        "{address} does not answer like a collector ({reason}): \
         is it the port for agents (8502 unless set otherwise)?"
    )]
    NotACollector {
        /// As configured.
        address: String,
        /// From TLS.
        reason: String,
    },
    /// Enrolment: no presented certificate has the hash asked for.
    #[error(
        "the collector at {address} is not the one the token was made for \
         (CA expected {expected}, got {got}): ask for a new command"
    )]
    WrongCa {
        /// As given.
        address: String,
        /// From the command line.
        expected: CaHash,
        /// Presented.
        got: CaHash,
    },
    /// Uplink: the collector belongs to another fleet.
    #[error(
        "the collector at {address} has a certificate of another CA than the one this server \
         enrolled with: if the fleet moved, enrol again with a new command"
    )]
    ForeignCollector {
        /// As configured.
        address: String,
    },
    /// The collector's certificate is not valid yet, by our clock.
    #[error(
        "the certificate of the collector at {address} is valid only from {from}, and it is {now} \
         here: the clock of this server may be wrong, set it (timedatectl) and try again"
    )]
    NotYetValid {
        /// As configured.
        address: String,
        /// Our clock.
        now: UnixMillis,
        /// Start of its validity.
        from: UnixMillis,
    },
    /// The collector's certificate is over, by our clock.
    #[error(
        "the certificate of the collector at {address} ended {until}, and it is {now} here: \
         check the clock of this server (timedatectl), else restart the collector to renew it"
    )]
    Expired {
        /// As configured.
        address: String,
        /// Our clock.
        now: UnixMillis,
        /// End of its validity.
        until: UnixMillis,
    },
    /// The collector ended the handshake because of our certificate.
    #[error("the collector at {address} refused this server's certificate: {reason}")]
    OursRefused {
        /// As configured.
        address: String,
        /// What it objects to, and the fix.
        reason: String,
    },
    /// Anything else in TLS.
    #[error("no secure connection to the collector at {address}: {reason}")]
    Tls {
        /// As configured.
        address: String,
        /// From TLS.
        reason: String,
    },
}

/// Whom the agent believes to be its collector.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Any chain that holds the CA certificate of this hash.
    Pin(CaHash),
    /// This CA certificate.
    Ca(CertificateDer<'static>),
}

/// Makes connections to one collector. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    address: String,
    tls: TlsConnector,
    /// Why the last connection ended, when TLS knows: gRPC's own errors no longer do.
    fault: Arc<Mutex<Option<LinkError>>>,
}

impl Connector {
    /// `identity` is the client certificate with its key; none while enrolling.
    pub(crate) fn new(
        address: &str,
        trust: Trust,
        identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        clock: fn() -> UnixMillis,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = FleetVerifier { trust, provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_details(provider, Arc::new(Clock(clock)))
            .with_safe_default_protocol_versions()?
            .dangerous() // only says that we bring the verifier; it verifies chain, name and time
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { address: address.to_owned(), tls, fault: Arc::default() })
    }

    /// Connects and shakes hands.
    pub(crate) async fn connect(&self) -> Result<Watched, LinkError> {
        let unreachable =
            |reason: String| LinkError::Unreachable { address: self.address.clone(), reason };
        self.note(None);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.shake_hands()).await;
        let result = connected.unwrap_or_else(|_| {
            Err(unreachable(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs())))
        });
        if let Err(error) = &result {
            self.note(Some(error.clone()));
        }
        result
    }

    async fn shake_hands(&self) -> Result<Watched, LinkError> {
        let unreachable = |error: io::Error| LinkError::Unreachable {
            address: self.address.clone(),
            reason: error.to_string(),
        };
        let tcp = TcpStream::connect(&self.address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let name = ServerName::try_from(wire::COLLECTOR_NAME).expect("a constant DNS name");
        match self.tls.connect(name, tcp).await {
            Ok(stream) => Ok(Watched { stream, of: self.clone() }),
            Err(error) => Err(self.explain(&error)),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Why the last connection could not be made or ended, if TLS had a reason.
    pub(crate) fn take_fault(&self) -> Option<LinkError> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, fault: Option<LinkError>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn explain(&self, error: &io::Error) -> LinkError {
        let address = self.address.clone();
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(error)) => explain_theirs(address, error),
            Some(rustls::Error::AlertReceived(alert)) => explain_ours(address, *alert),
            Some(rustls::Error::InvalidMessage(_)) => {
                LinkError::NotACollector { address, reason: "it speaks no TLS".to_owned() }
            }
            Some(other) => LinkError::Tls { address, reason: other.to_string() },
            None => LinkError::NotACollector { address, reason: error.to_string() },
        }
    }
}

/// What is wrong with the collector's certificate.
fn explain_theirs(address: String, error: &CertificateError) -> LinkError {
    let millis = |t: &UnixTime| UnixMillis::from_second(t.as_secs().cast_signed());
    match error {
        CertificateError::Other(OtherError(other)) => match other.downcast_ref::<PinMissed>() {
            Some(missed) => {
                LinkError::WrongCa { address, expected: missed.expected, got: missed.got }
            }
            None => LinkError::Tls { address, reason: other.to_string() },
        },
        CertificateError::NotValidYetContext { time, not_before } => {
            LinkError::NotYetValid { address, now: millis(time), from: millis(not_before) }
        }
        CertificateError::ExpiredContext { time, not_after } => {
            LinkError::Expired { address, now: millis(time), until: millis(not_after) }
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            LinkError::ForeignCollector { address }
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let reason = format!("its certificate is not for {}", wire::COLLECTOR_NAME);
            LinkError::NotACollector { address, reason }
        }
        other => LinkError::Tls { address, reason: other.to_string() },
    }
}

/// What the collector has against ours.
fn explain_ours(address: String, alert: AlertDescription) -> LinkError {
    let reason = match alert {
        AlertDescription::CertificateExpired => {
            "it has expired or is not valid yet by the collector's clock; compare the clocks, \
             else enrol again with a token made by `gatewatch-collector token create --replace`"
        }
        AlertDescription::CertificateRevoked => {
            "it is revoked; to let this server back in, enrol it with a new token"
        }
        AlertDescription::UnknownCA
        | AlertDescription::DecryptError
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate => {
            "it is of another CA; if the collector was set up anew, enrol again with a new token"
        }
        AlertDescription::CertificateRequired => "it got none; enrol this server",
        other => return LinkError::Tls { address, reason: format!("alert {other:?}") },
    };
    LinkError::OursRefused { address, reason: reason.to_owned() }
}

/// A TLS stream that remembers why it ended.
pub(crate) struct Watched {
    stream: TlsStream<TcpStream>,
    of: Connector,
}

impl Watched {
    /// With TLS 1.3 the collector judges our certificate after the handshake: its alert comes as
    /// an error of the first read.
    fn watch<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &poll
            && let Some(inner) = error.get_ref()
            && inner.is::<rustls::Error>()
        {
            self.of.note(Some(self.of.explain(error)));
        }
        poll
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(poll)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(poll)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(poll)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct Clock(fn() -> UnixMillis);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from((self.0)().second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// No certificate of the chain has the pinned hash.
#[derive(Debug, thiserror::Error)]
#[error("the CA is {got}, expected {expected}")]
struct PinMissed {
    expected: CaHash,
    got: CaHash,
}

/// Verifies the collector's chain, name and validity against the fleet's CA, however it is known.
#[derive(Debug)]
struct FleetVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl FleetVerifier {
    fn ca<'a>(
        &'a self,
        leaf: &'a CertificateDer<'a>,
        rest: &'a [CertificateDer<'a>],
    ) -> Result<&'a CertificateDer<'a>, rustls::Error> {
        let expected = match &self.trust {
            Trust::Ca(ca) => return Ok(ca),
            Trust::Pin(expected) => *expected,
        };
        let mut presented = rest.iter().rev().chain([leaf]);
        let last = rest.last().unwrap_or(leaf);
        presented.find(|der| CaHash::of(der) == expected).ok_or_else(|| {
            let missed = PinMissed { expected, got: CaHash::of(last) };
            CertificateError::Other(OtherError(Arc::new(missed))).into()
        })
    }
}

impl ServerCertVerifier for FleetVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca(leaf, intermediates)?.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Bytes as lower-case hex.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a string cannot fail");
        out
    })
}
