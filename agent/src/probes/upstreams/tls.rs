//! One TLS handshake that believes everything: only the certificate that is shown is wanted, and the
//! first status line of a site that speaks nothing else.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;
use wire::UnixMillis;
use wire::v1::Signal;

use super::certificate;
use super::dial::{Failure, Stream, Target, dial, printable};
use crate::timer::{patience, within};

/// Longest wait for a handshake.
const TIMEOUT: Duration = patience(Duration::from_secs(3));
/// Larger certificates are not looked into.
const CERTIFICATE_BYTES_MAX: usize = 64 << 10;

/// What a server showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) not_after: UnixMillis,
    pub(super) fingerprint: [u8; 32],
}

/// Makes handshakes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Handshaker {
    provider: Arc<CryptoProvider>,
}

impl Handshaker {
    pub(super) fn new() -> Self {
        Self { provider: Arc::new(rustls::crypto::ring::default_provider()) }
    }

    /// Connects and shakes hands; `name` is asked for unless it is an address.
    pub(super) async fn connect(
        &self,
        target: &Target,
        name: &str,
    ) -> Result<(Box<dyn Stream>, Shown), Failure> {
        let tls = |words: String| Failure::new(Signal::Tls, words);
        let verifier = Arc::new(Recorder::new(Arc::clone(&self.provider)));
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::ours(error.to_string()))?
            .dangerous() // the peer is not trusted with anything: nothing secret is sent
            .with_custom_certificate_verifier(Arc::<Recorder>::clone(&verifier))
            .with_no_client_auth();
        let name = server_name(name).ok_or_else(|| Failure::ours("it has no name to ask for"))?;
        let stream = dial(target).await?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = match within(TIMEOUT, connected).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return Err(tls(printable(&error.to_string(), 120))),
            None => {
                return Err(tls(format!("no TLS handshake within {} s", TIMEOUT.as_secs())));
            }
        };
        let leaf = verifier.leaf.lock().unwrap_or_else(PoisonError::into_inner).take();
        let shown = leaf.as_deref().and_then(read_leaf);
        let shown = shown.ok_or_else(|| tls("its certificate cannot be read".to_owned()))?;
        Ok((Box::new(stream), shown))
    }
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.trim_matches(['[', ']']);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(ServerName::IpAddress(ip.into()));
    }
    ServerName::try_from(bare.to_owned()).ok()
}

fn read_leaf(der: &[u8]) -> Option<Shown> {
    let not_after = certificate::not_after(der)?;
    let fingerprint = digest(&SHA256, der).as_ref().try_into().ok()?;
    Some(Shown { not_after, fingerprint })
}

/// Accepts any certificate and keeps it.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Option<Vec<u8>>>,
}

impl Recorder {
    fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, leaf: Mutex::new(None) }
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if leaf.len() <= CERTIFICATE_BYTES_MAX {
            let mut kept = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(leaf.to_vec());
        }
        Ok(ServerCertVerified::assertion())
    }

    // An old or odd key is no reason to know nothing of the certificate.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_asked_for_and_nonsense_is_not() {
        for (name, is_good) in [
            ("app.internal", true),
            ("10.0.0.7", true),
            ("[::1]", true),
            ("", false),
            ("a b", false),
            ("*.example", false),
        ] {
            assert_eq!(server_name(name).is_some(), is_good, "{name}");
        }
        assert_eq!(read_leaf(b"no certificate"), None);
    }
}
