//! TLS of the agents' port: our certificate, the fleet's certificates, and why one was refused.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use thiserror::Error;

use crate::ca::{self, Ca};

tokio::task_local! {
    /// Who is shaking hands: the verifier is not told.
    pub(super) static PEER: SocketAddr;
}

/// Why the port cannot speak TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The authority's root is not usable as one.
    #[error("the authority's certificate cannot be used for client certificates")]
    Root(#[from] rustls::server::VerifierBuilderError),
    /// rustls refuses our certificate, key or root.
    #[error("the collector's certificate cannot be used")]
    Certificate(#[from] Error),
}

/// The server's side of TLS: a client certificate is optional, but one of ours if there is one.
///
/// `http/1.1` stands before `h2`: curl offers both and gets the downloads, agents offer only h2.
/// There is no session resumption, because it would skip the check of the certificate.
pub(super) fn config(ca: &Ca) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.root().clone())?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let (chain, key) = ca.server_chain_and_key();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(Telling { inner: verifier }))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The usual verifier, which also logs whose certificate it refused and what to do.
#[derive(Debug)]
struct Telling {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Telling {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bad_signature = Error::InvalidCertificate(CertificateError::BadSignature);
        let verdict = self.inner.verify_client_cert(cert, intermediates, now).map_err(|error| {
            // Another collector's authority has the name of ours: the agent is told the same as
            // about any unknown one.
            let is_foreign = error == bad_signature;
            if is_foreign { CertificateError::UnknownIssuer.into() } else { error }
        });
        if let Err(error) = &verdict {
            let peer = PEER.try_with(ToString::to_string).unwrap_or_default();
            // Claimed, not proved: a foreign certificate may name anybody.
            let claims = ca::identity(cert).map(|who| who.name).unwrap_or_default();
            tracing::warn!(peer, claims, reason = explain(error), %error, "client certificate refused");
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A refusal in words, with the fix.
fn explain(error: &Error) -> &'static str {
    let Error::InvalidCertificate(error) = error else { return "it cannot be checked" };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired: check the clocks of both machines, else enrol the agent again"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: check the clock of this machine"
        }
        CertificateError::UnknownIssuer => {
            "it is of another authority: enrol the agent with this collector"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is no client certificate"
        }
        _ => "it is damaged: enrol the agent again",
    }
}
