//! The fleet's own certificate authority: one root, the collector's certificate, the servers'.
//!
//! Files under `DATA_DIR/ca`, all 0600: `ca.key` and `ca.pem` (the root), `server.key` (the
//! collector's key, kept so that its pin in install commands stays true). The key is written
//! before the certificate, so a crash in between leaves a root nobody has seen yet.
//!
//! A server's identity is the subject of its certificate: CN its name, serialNumber its id.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use ulid::Ulid;
use wire::UnixMillis;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::files;

/// Every certificate is valid from this long before it was made, so a clock a day off still works.
pub const BACKDATED: Duration = Duration::from_secs(2 * 86_400);

/// Life of a server's certificate from the moment it is made.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// Life of the root, and of the collector's certificate under it.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long before the root ends the operator is told at each start.
const ROOT_WARNING: Duration = Duration::from_secs(365 * 86_400);

/// X.520 serialNumber: holds the server's id in a certificate's subject.
const SERIAL_NUMBER_OID: [u64; 4] = [2, 5, 4, 5];

/// Largest signing request read, bytes; an RSA-4096 one is below 2 KiB.
const CSR_BYTES_MAX: usize = 8192;

/// Why the authority cannot be used.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("{path}: the certificate authority's file cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there and makes no sense.
    #[error(
        "{path}: {reason}; restore DATA_DIR/ca from a backup, or move it away and enrol every agent again"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// The system gave no random bytes.
    #[error("the system has no random bytes")]
    Random,
    /// The peer's signing request cannot be used.
    #[error("the signing request cannot be used: {0}")]
    Request(String),
}

/// Who a client certificate says it is. Whether it still may is the store's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Id of the server, for ever.
    pub uuid: Ulid,
    /// Name the certificate was made for.
    pub name: String,
    /// Serial number of the certificate.
    pub serial: Vec<u8>,
}

/// A certificate just made for a server.
#[derive(Clone, Debug)]
pub struct SignedCert {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key_sha256: [u8; 32],
    /// End of its life.
    pub not_after: UnixMillis,
    /// When the agent should renew it: two thirds of the life from now.
    pub renew_after: UnixMillis,
}

/// The certificate authority with its keys in memory.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    server_key: KeyPair,
    server: CertificateDer<'static>,
}

impl Ca {
    /// Opens the authority in `dir` (`DATA_DIR/ca`), or makes it on the first start.
    pub fn load_or_create(dir: &Path, now: UnixMillis) -> Result<Self, CaError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::File { path, source }
        };
        files::create_private_dir(dir).map_err(file(dir))?;
        let key = load_or_create_key(&dir.join("ca.key"), dir.join("ca.pem").exists())?;
        let path = dir.join("ca.pem");
        let root = match std::fs::read(&path) {
            Ok(pem) => read_root(&path, &pem, &key, now)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let root = make_root(&key, now)?;
                files::replace_private(&path, root.pem().as_bytes()).map_err(file(&path))?;
                tracing::info!(path = %path.display(), "certificate authority created");
                root.der().clone()
            }
            Err(error) => return Err(file(&path)(error)),
        };
        let server_key = load_or_create_key(&dir.join("server.key"), false)?;
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        let server = make_server_leaf(&issuer, &root, &server_key, now)?;
        Ok(Self { issuer, root, server_key, server })
    }

    /// `sha256:HEX` over the root's DER: what `enroll --ca-hash` checks.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("sha256:{}", hex(digest(&SHA256, &self.root).as_ref()))
    }

    /// The root, DER.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What the agents' port presents: the certificate of `collector.gatewatch`, then the root.
    #[must_use]
    pub fn server_chain_and_key(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.server_key.serialize_der());
        (vec![self.server.clone(), self.root.clone()], key.into())
    }

    /// SHA-256 of the collector's public key: `curl --pinnedpubkey sha256//BASE64` of it.
    #[must_use]
    pub fn server_key_sha256(&self) -> [u8; 32] {
        sha256(&self.server_key.subject_public_key_info())
    }

    /// Certifies the public key of a signing request as that of server `uuid`, called `name`.
    ///
    /// Nothing else of the request is used: no name, no extension, no usage.
    pub fn sign(
        &self,
        csr_der: &[u8],
        uuid: Ulid,
        name: &str,
        now: UnixMillis,
    ) -> Result<SignedCert, CaError> {
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(CaError::Request(format!("larger than {CSR_BYTES_MAX} bytes")));
        }
        let mut csr = CertificateSigningRequestParams::from_der(&csr_der.into())
            .map_err(|error| CaError::Request(error.to_string()))?;
        let not_after = now.plus(CERTIFICATE_LIFE);
        let mut params = params(now.minus(BACKDATED), not_after)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(
            DnType::CustomDnType(SERIAL_NUMBER_OID.to_vec()),
            DnValue::PrintableString(PrintableString::try_from(uuid.to_string())?),
        );
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = random_serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        csr.params = params;
        Ok(SignedCert {
            der: csr.signed_by(&self.issuer)?.der().to_vec(),
            serial: serial.to_vec(),
            key_sha256: sha256(&csr.public_key.subject_public_key_info()),
            not_after,
            renew_after: now.plus(CERTIFICATE_LIFE * 2 / 3),
        })
    }
}

/// Reads who a client certificate is for. The TLS layer has checked its signature and dates.
///
/// `Err` says what the certificate lacks: it was not made by [`Ca::sign`].
pub fn identity(cert_der: &[u8]) -> Result<ServerIdentity, &'static str> {
    let (_, cert) = X509Certificate::from_der(cert_der).map_err(|_| "it is no X.509")?;
    if cert.is_ca() {
        return Err("it is an authority's");
    }
    let subject = cert.subject();
    let name = subject
        .iter_common_name()
        .next()
        .and_then(|cn| cn.as_str().ok())
        .ok_or("its subject has no name")?;
    let uuid = subject
        .iter_by_oid(&x509_parser::oid_registry::OID_X509_SERIALNUMBER)
        .next()
        .and_then(|id| id.as_str().ok())
        .and_then(|id| Ulid::from_string(id).ok())
        .ok_or("its subject has no server id")?;
    Ok(ServerIdentity { uuid, name: name.to_owned(), serial: cert.raw_serial().to_vec() })
}

/// A new random server id whose time is `now`.
pub fn new_id(now: UnixMillis) -> Result<Ulid, CaError> {
    let bits = u128::from_be_bytes(random()?);
    Ok(Ulid::from_parts(u64::try_from(now.0).unwrap_or(0), bits))
}

/// Bytes nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(bytes)
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 is 32 bytes")
}

/// Whether two secrets are equal, in a time that depends on their lengths only.
#[must_use]
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    a.len() == b.len() && differ == 0
}

fn load_or_create_key(path: &Path, must_exist: bool) -> Result<KeyPair, CaError> {
    let file = |source| CaError::File { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(pem) => {
            if files::make_private(path).map_err(file)? {
                tracing::warn!(path = %path.display(), "private key was readable by others, now it is not");
            }
            KeyPair::from_pem(&pem).map_err(|error| CaError::Damaged {
                path: path.to_owned(),
                reason: format!("is no private key ({error})"),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && must_exist => {
            Err(CaError::Damaged {
                path: path.to_owned(),
                reason: "is missing although its certificate is there".into(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            files::replace_private(path, key.serialize_pem().as_bytes()).map_err(file)?;
            Ok(key)
        }
        Err(error) => Err(file(error)),
    }
}

fn read_root(
    path: &Path,
    pem: &[u8],
    key: &KeyPair,
    now: UnixMillis,
) -> Result<CertificateDer<'static>, CaError> {
    let damaged = |reason: &str| CaError::Damaged { path: path.to_owned(), reason: reason.into() };
    let root = CertificateDer::from_pem_slice(pem).map_err(|_| damaged("is no certificate"))?;
    let (_, parsed) = X509Certificate::from_der(&root).map_err(|_| damaged("is no certificate"))?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(damaged("does not belong to ca.key"));
    }
    let not_after = parsed.validity().not_after.timestamp();
    if not_after < now.plus(ROOT_WARNING).second() {
        let not_after = UnixMillis::from_second(not_after);
        tracing::error!(%not_after, "the certificate authority ends soon: plan to enrol all agents anew");
    }
    Ok(root)
}

fn make_root(key: &KeyPair, now: UnixMillis) -> Result<rcgen::Certificate, CaError> {
    let mut params = params(now.minus(BACKDATED), now.plus(ROOT_LIFE))?;
    params.distinguished_name.push(DnType::CommonName, "gatewatch fleet authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    Ok(params.self_signed(key)?)
}

/// The collector's certificate lives as long as its root: its key is stable and on this disk only.
fn make_server_leaf(
    issuer: &Issuer<'static, KeyPair>,
    root: &CertificateDer<'_>,
    key: &KeyPair,
    now: UnixMillis,
) -> Result<CertificateDer<'static>, CaError> {
    let (_, root) =
        X509Certificate::from_der(root).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    let end = UnixMillis::from_second(root.validity().not_after.timestamp());
    let mut leaf = params(now.minus(BACKDATED), end)?;
    leaf.distinguished_name.push(DnType::CommonName, wire::COLLECTOR_NAME);
    leaf.subject_alt_names =
        CertificateParams::new(vec![wire::COLLECTOR_NAME.to_owned()])?.subject_alt_names;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    Ok(leaf.signed_by(key, issuer)?.der().clone())
}

/// Parameters with an explicit validity: rcgen's own runs to the year 4096.
fn params(not_before: UnixMillis, not_after: UnixMillis) -> Result<CertificateParams, CaError> {
    let date = |at: UnixMillis| {
        ASN1Time::from_timestamp(at.second())
            .map(|time| time.to_datetime())
            .map_err(|_| rcgen::Error::Time)
    };
    let mut params = CertificateParams::default();
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 126 random bits, positive and without a leading zero, so its DER is these bytes.
fn random_serial() -> Result<[u8; 16], CaError> {
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_176_067_000);

    fn authority() -> (tempfile::TempDir, Ca) {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(&dir.path().join("ca"), NOW).unwrap();
        (dir, ca)
    }

    fn request(extra: impl FnOnce(&mut CertificateParams)) -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "someone-else");
        extra(&mut params);
        let csr = params.serialize_request(&key).unwrap().der().to_vec();
        (key, csr)
    }

    /// What the TLS layer of the collector says of a client certificate at a time.
    fn verify_client(ca: &Ca, der: &[u8], at: UnixMillis) -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.root().clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .unwrap();
        let at = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_millis(at.0 as u64));
        verifier.verify_client_cert(&CertificateDer::from(der.to_vec()), &[], at).map(|_| ())
    }

    #[test]
    fn a_second_start_keeps_hash_and_pin() {
        let (dir, first) = authority();
        let second = Ca::load_or_create(&dir.path().join("ca"), NOW.plus(BACKDATED)).unwrap();
        assert_eq!(first.hash(), second.hash());
        assert_eq!(first.server_key_sha256(), second.server_key_sha256());
        assert_eq!(first.hash(), format!("sha256:{}", hex(&sha256(first.root()))));
        assert_eq!(first.hash().len(), 7 + 64);
        for name in ["ca.key", "ca.pem", "server.key"] {
            let mode = std::fs::metadata(dir.path().join("ca").join(name)).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn only_the_public_key_of_a_request_is_used() {
        let (_dir, ca) = authority();
        let uuid = new_id(NOW).unwrap();
        let (key, csr) = request(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let signed = ca.sign(&csr, uuid, "web-07", NOW).unwrap();
        let (_, cert) = X509Certificate::from_der(&signed.der).unwrap();
        assert_eq!(cert.public_key().raw, key.subject_public_key_info());
        assert_eq!(signed.key_sha256, sha256(cert.public_key().raw));
        assert!(!cert.is_ca());
        assert!(cert.subject_alternative_name().unwrap().is_none());
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let expected =
            ServerIdentity { uuid, name: "web-07".into(), serial: signed.serial.clone() };
        assert_eq!(identity(&signed.der), Ok(expected));
    }

    #[test]
    fn certificates_work_with_a_clock_one_day_off_and_end_after_thirty_days() {
        let (_dir, ca) = authority();
        let (_, csr) = request(|_| ());
        let cert = ca.sign(&csr, new_id(NOW).unwrap(), "web-07", NOW).unwrap();
        let day = Duration::from_secs(86_400);
        for (at, good) in [
            (NOW.minus(day * 3), false),
            (NOW.minus(day * 2), true),
            (NOW.minus(day), true),
            (NOW.plus(day), true),
            (cert.not_after, true),
            (cert.not_after.plus(Duration::from_secs(1)), false),
        ] {
            assert_eq!(verify_client(&ca, &cert.der, at).is_ok(), good, "at {at}");
        }
        assert_eq!(cert.not_after, NOW.plus(day * 30));
        assert_eq!(cert.renew_after, NOW.plus(day * 20));
    }

    #[test]
    fn certificates_of_another_authority_are_refused() {
        let ((_a, ours), (_b, foreign)) = (authority(), authority());
        let (_, csr) = request(|_| ());
        let cert = foreign.sign(&csr, new_id(NOW).unwrap(), "web-07", NOW).unwrap();
        assert!(verify_client(&foreign, &cert.der, NOW).is_ok());
        assert!(verify_client(&ours, &cert.der, NOW).is_err());
        let (chain, _) = ours.server_chain_and_key();
        assert!(verify_client(&ours, &chain[0], NOW).is_err(), "the collector is no agent");
        assert!(identity(&chain[0]).is_err());
        assert!(identity(&chain[1]).is_err());
    }

    #[test]
    fn the_collector_is_always_collector_gatewatch() {
        let (_dir, ca) = authority();
        let (chain, _) = ca.server_chain_and_key();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(chain[1].clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .unwrap();
        for (name, days, good) in [
            ("collector.gatewatch", 0, true),
            ("collector.gatewatch", -1, true),
            ("collector.gatewatch", 3000, true),
            ("collector.gatewatch", 3651, false),
            ("other.example", 0, false),
        ] {
            let at = Duration::from_millis((NOW.0 + days * 86_400_000) as u64);
            let verdict = rustls::client::danger::ServerCertVerifier::verify_server_cert(
                &*verifier,
                &chain[0],
                &chain[1..],
                &name.try_into().unwrap(),
                &[],
                rustls::pki_types::UnixTime::since_unix_epoch(at),
            );
            assert_eq!(verdict.is_ok(), good, "{name} after {days} days");
        }
    }

    #[test]
    fn hostile_requests_and_damaged_files_are_told_apart() {
        let (dir, ca) = authority();
        let (_, mut forged) = request(|_| ());
        let last = forged.len() - 1;
        forged[last] ^= 1;
        for csr in [vec![], b"hello".to_vec(), vec![0x30; 9000], forged] {
            let error = ca.sign(&csr, new_id(NOW).unwrap(), "x", NOW).unwrap_err();
            assert!(matches!(error, CaError::Request(_)), "{error:?}");
        }
        let ca_dir = dir.path().join("ca");
        std::fs::write(ca_dir.join("ca.key"), KeyPair::generate().unwrap().serialize_pem())
            .unwrap();
        let error = Ca::load_or_create(&ca_dir, NOW).err().unwrap().to_string();
        assert!(error.contains("ca.pem: does not belong to ca.key"), "{error}");
        std::fs::remove_file(ca_dir.join("ca.key")).unwrap();
        let error = Ca::load_or_create(&ca_dir, NOW).err().unwrap().to_string();
        assert!(error.contains("ca.key: is missing"), "{error}");
    }

    #[test]
    fn secrets_are_compared_whole() {
        for (a, b, same) in [("abc", "abc", true), ("abc", "abd", false), ("abc", "ab", false)] {
            assert_eq!(same_secret(a.as_bytes(), b.as_bytes()), same);
        }
    }
}
