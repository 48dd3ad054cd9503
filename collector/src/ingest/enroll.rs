//! The `Enrollment` service: join token and signing request in, certificate out.
//!
//! The use of a token is counted in the transaction that creates the server, so a crash leaves
//! both or neither. Repeating an enrolment with the same token, name and key gives the same server
//! another certificate: an agent that lost the answer asks again.
//! Every refusal is logged with its peer and its reason.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};
use wire::UnixMillis;
use wire::v1::enrollment_server::Enrollment;
use wire::v1::{EnrollRequest, EnrollResponse, RenewRequest, RenewResponse};

use crate::ca::{self, Ca, CaError, ServerIdentity, SignedCert};
use crate::store::fleet::{self, Admission};
use crate::store::join::{self, JoinRefusal, JoinWish, Joined};
use crate::store::{Store, StoreError};
use crate::{clock, errors};

/// Refusals a peer may collect before it is no longer heard; one comes back every [`REFILL`].
const REFUSALS_MAX: f64 = 20.0;
const REFILL: Duration = Duration::from_secs(5);

/// Peers remembered for that. When full, those with the most patience left are forgotten.
const PEERS_MAX: usize = 4096;

/// Longest name of a server: that of a hostname, and of a certificate's common name.
const NAME_BYTES_MAX: usize = 64;

/// Serves `Enroll` and `Renew`; cheap to clone.
#[derive(Clone)]
pub struct EnrollService {
    ca: Arc<Ca>,
    store: Store,
    patience: Arc<Mutex<Patience>>,
}

impl EnrollService {
    /// A service of this authority and this store.
    #[must_use]
    pub fn new(ca: Arc<Ca>, store: Store) -> Self {
        Self { ca, store, patience: Arc::default() }
    }

    async fn admit(&self, request: EnrollRequest, now: UnixMillis) -> Result<Joined, Refusal> {
        let (lowest, highest) = wire::PROTOCOL_VERSIONS;
        if request.protocol_version < lowest {
            return Err(Refusal::Version { spoken: request.protocol_version, lowest, highest });
        }
        check_name(&request.name)?;
        check_labels(&request.labels)?;
        check_labels(&request.detected)?;
        let ca = Arc::clone(&self.ca);
        let wish = JoinWish {
            token: request.token,
            name: request.name,
            config: request.labels,
            detected: request.detected,
            new_uuid: ca::new_id(now)?,
        };
        let joined = self.store.write(move |tx| {
            join::join(tx, &wish, now, |uuid, name| ca.sign(&request.csr_der, uuid, name, now))
        });
        Ok(joined.await.map_err(Refusal::Store)??)
    }

    async fn renew(
        &self,
        identity: ServerIdentity,
        csr: Vec<u8>,
        now: UnixMillis,
    ) -> Result<(String, SignedCert), Refusal> {
        let ca = Arc::clone(&self.ca);
        let renewed = self.store.write(move |tx| {
            let (server, name) = match fleet::admit(tx, identity.uuid, &identity.serial)? {
                Admission::Known { server, name } => (server, name),
                Admission::Revoked => return Ok(Err(Refusal::CertificateRevoked)),
                Admission::Unknown => return Ok(Err(Refusal::ServerUnknown)),
            };
            let cert = match ca.sign(&csr, identity.uuid, &name, now) {
                Ok(cert) => cert,
                Err(error) => return Ok(Err(Refusal::from(error))),
            };
            fleet::add_certificate(tx, server, &cert.serial, cert.not_after, now)?;
            Ok(Ok((name, cert)))
        });
        renewed.await.map_err(Refusal::Store)?
    }

    fn refuse(&self, what: &str, peer: SocketAddr, name: &str, refusal: &Refusal) -> Status {
        if let Code::Internal | Code::Unavailable = refusal.code() {
            tracing::error!(%peer, server = shortened(name), error = %errors::chain(refusal), "{what} failed");
        } else {
            self.patience().spend(peer.ip(), clock::instant());
            tracing::warn!(%peer, server = shortened(name), reason = %refusal, "{what} refused");
        }
        Status::new(refusal.code(), refusal.to_string())
    }

    /// Refuses a peer that was refused too often, before it costs a transaction.
    fn hear(&self, peer: SocketAddr) -> Result<(), Status> {
        let refused = self.patience().is_over(peer.ip(), clock::instant());
        if refused {
            tracing::debug!(%peer, "enrolment refused: too many refusals of this peer");
            return Err(Status::resource_exhausted(
                "too many refused enrolments from this address: wait a minute and try again",
            ));
        }
        Ok(())
    }

    fn patience(&self) -> std::sync::MutexGuard<'_, Patience> {
        self.patience.lock().expect("no holder of this lock panics")
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollService {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let peer = peer(&request);
        self.hear(peer)?;
        let request = request.into_inner();
        let (name, version) = (request.name.clone(), request.agent_version.clone());
        match self.admit(request, clock::now()).await {
            Ok(joined) => {
                tracing::info!(
                    server = joined.name, %peer, token = joined.token, replaced = joined.replaced,
                    agent_version = shortened(&version), "server enrolled"
                );
                Ok(Response::new(EnrollResponse {
                    certificate_der: joined.cert.der,
                    ca_der: self.ca.root().to_vec(),
                    server: joined.name,
                    not_after_unix_ms: joined.cert.not_after.0,
                    renew_after_unix_ms: joined.cert.renew_after.0,
                }))
            }
            Err(refusal) => Err(self.refuse("enrolment", peer, &name, &refusal)),
        }
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let peer = peer(&request);
        self.hear(peer)?;
        let identity = match request.peer_certs().as_deref().and_then(|certs| certs.first()) {
            Some(cert) => ca::identity(cert).map_err(Refusal::Identity),
            None => Err(Refusal::NoCertificate),
        };
        let identity = identity.map_err(|refusal| self.refuse("renewal", peer, "", &refusal))?;
        let name = identity.name.clone();
        match Self::renew(self, identity, request.into_inner().csr_der, clock::now()).await {
            Ok((server, cert)) => {
                tracing::info!(server, %peer, not_after = %cert.not_after, "certificate renewed");
                Ok(Response::new(RenewResponse {
                    certificate_der: cert.der,
                    ca_der: self.ca.root().to_vec(),
                    not_after_unix_ms: cert.not_after.0,
                    renew_after_unix_ms: cert.renew_after.0,
                }))
            }
            Err(refusal) => Err(self.refuse("renewal", peer, &name, &refusal)),
        }
    }
}

/// Why a server gets no certificate. The text goes to the agent and into the log.
#[derive(Debug)]
enum Refusal {
    Join(JoinRefusal),
    Version { spoken: u32, lowest: u32, highest: u32 },
    Name(String),
    Labels(String),
    NoCertificate,
    Identity(&'static str),
    CertificateRevoked,
    ServerUnknown,
    Sign(CaError),
    Store(StoreError),
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::Join(JoinRefusal::TokenUnknown | JoinRefusal::Token(_))
            | Self::NoCertificate
            | Self::Identity(_) => Code::Unauthenticated,
            Self::Join(JoinRefusal::NameInUse(_)) => Code::AlreadyExists,
            Self::CertificateRevoked | Self::ServerUnknown => Code::PermissionDenied,
            Self::Version { .. } => Code::FailedPrecondition,
            Self::Name(_) | Self::Labels(_) => Code::InvalidArgument,
            Self::Join(JoinRefusal::Sign(error)) | Self::Sign(error) => match error {
                CaError::Request(_) => Code::InvalidArgument,
                _ => Code::Internal,
            },
            Self::Store(_) => Code::Unavailable,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(JoinRefusal::Sign(error)) | Self::Sign(error) => match error {
                CaError::Request(_) => error.fmt(f),
                _ => f.write_str("the collector cannot make certificates: see its log"),
            },
            Self::Join(refusal) => refusal.fmt(f),
            Self::Version { spoken, lowest, highest } => write!(
                f,
                "the agent speaks protocol {spoken} at most, this collector {lowest} to {highest}: \
                 update the agent"
            ),
            Self::Name(why) => {
                write!(f, "the server's name {why}: set `name` in [host] of agent.toml")
            }
            Self::Labels(why) => write!(f, "the labels cannot be used: {why}"),
            Self::NoCertificate => f.write_str("a client certificate is needed: enrol first"),
            Self::Identity(why) => write!(f, "the client certificate names no server: {why}"),
            Self::CertificateRevoked => f.write_str(
                "the certificate was revoked: enrol again with a token of \
                 `gatewatch-collector token create --replace NAME`",
            ),
            Self::ServerUnknown => {
                f.write_str("this server is not in the fleet (any more): enrol again")
            }
            Self::Store(_) => f.write_str("the collector's database does not answer: see its log"),
        }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Join(JoinRefusal::Sign(error)) | Self::Sign(error) => Some(error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        Self::Sign(error)
    }
}

impl From<JoinRefusal> for Refusal {
    fn from(refusal: JoinRefusal) -> Self {
        Self::Join(refusal)
    }
}

/// How much each peer may still be refused.
#[derive(Debug, Default)]
struct Patience {
    peers: HashMap<IpAddr, (f64, Instant)>,
}

impl Patience {
    fn is_over(&self, peer: IpAddr, now: Instant) -> bool {
        let spent = self.peers.get(&network(peer)).map_or(0.0, |entry| left_of(*entry, now));
        spent > REFUSALS_MAX - 1.0
    }

    fn spend(&mut self, peer: IpAddr, now: Instant) {
        let peer = network(peer);
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, entry| left_of(*entry, now) >= 1.0);
            let mildest = self.peers.iter().min_by(|a, b| a.1.0.total_cmp(&b.1.0));
            if let Some(mildest) = mildest.filter(|_| self.peers.len() >= PEERS_MAX) {
                let mildest = *mildest.0;
                self.peers.remove(&mildest);
            }
        }
        let spent = self.peers.get(&peer).map_or(0.0, |entry| left_of(*entry, now));
        self.peers.insert(peer, ((spent + 1.0).min(REFUSALS_MAX), now));
    }
}

/// Refusals still held against a peer.
fn left_of((spent, since): (f64, Instant), now: Instant) -> f64 {
    let forgiven = now.saturating_duration_since(since).as_secs_f64() / REFILL.as_secs_f64();
    (spent - forgiven).max(0.0)
}

/// One customer of IPv6 has a whole /64: it counts as one peer.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            v6.to_ipv4_mapped().map_or(IpAddr::from(octets), IpAddr::V4)
        }
    }
}

fn peer<T>(request: &Request<T>) -> SocketAddr {
    request.remote_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

/// As much of a stranger's text as a log line may hold; the log escapes control characters.
fn shortened(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}

/// Says what is wrong with the name of a server.
fn check_name(name: &str) -> Result<(), Refusal> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let why = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("is longer than {NAME_BYTES_MAX} bytes")
    } else if !name.bytes().all(good) {
        "may hold only letters, digits, dot, hyphen and underscore".to_owned()
    } else {
        return Ok(());
    };
    Err(Refusal::Name(why))
}

/// Says what is wrong with labels an agent asks for.
fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    fleet::check_labels(labels).map_err(Refusal::Labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServerId;
    use crate::store::fleet::LabelSource;
    use crate::store::tokens::{self, TokenTerms};
    use std::path::Path;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Door {
        service: EnrollService,
        now: UnixMillis,
        _dir: tempfile::TempDir,
    }

    impl Door {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let now = clock::now();
            let ca = Arc::new(Ca::load_or_create(&dir.path().join("ca"), now).unwrap());
            let store = Store::open(Path::new(dir.path())).unwrap();
            let service = EnrollService::new(ca, store);
            Self { service, now, _dir: dir }
        }

        async fn token(&self, id: &'static str, terms: TokenTerms) -> String {
            let now = self.now;
            let store = &self.service.store;
            store.write(move |tx| tokens::insert(tx, id, "secret", &terms, now)).await.unwrap();
            format!("{id}.secret")
        }

        async fn enroll(&self, request: EnrollRequest) -> Result<EnrollResponse, Status> {
            self.service.enroll(Request::new(request)).await.map(Response::into_inner)
        }

        async fn refusal(&self, request: EnrollRequest) -> (Code, String) {
            let status = self.enroll(request).await.unwrap_err();
            (status.code(), status.message().to_owned())
        }

        async fn admission(&self, certificate: &[u8]) -> Admission {
            let who = ca::identity(certificate).unwrap();
            let store = &self.service.store;
            store.read(move |conn| fleet::admit(conn, who.uuid, &who.serial)).await.unwrap()
        }

        async fn labels(&self, name: &'static str) -> BTreeMap<String, String> {
            let now = self.now;
            let shown = self.service.store.read(move |conn| fleet::show(conn, name, now)).await;
            shown.unwrap().unwrap().view.labels
        }
    }

    fn terms(now: UnixMillis, uses_max: u32) -> TokenTerms {
        TokenTerms { expires_at: now.plus(HOUR), uses_max, ..TokenTerms::default() }
    }

    fn csr() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    fn wish(token: &str, name: &str) -> EnrollRequest {
        EnrollRequest {
            token: token.to_owned(),
            csr_der: csr(),
            name: name.to_owned(),
            agent_version: "0.1.0".into(),
            protocol_version: 1,
            ..EnrollRequest::default()
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[tokio::test]
    async fn a_token_admits_as_many_servers_as_it_says() {
        let door = Door::new();
        let token = door.token("two", terms(door.now, 2)).await;
        for name in ["web-1", "web-2"] {
            let answer = door.enroll(wish(&token, name)).await.unwrap();
            assert_eq!(answer.server, name);
            assert_eq!(ca::identity(&answer.certificate_der).unwrap().name, name);
            assert_eq!(answer.ca_der, door.service.ca.root().to_vec());
            let known = door.admission(&answer.certificate_der).await;
            assert!(matches!(known, Admission::Known { name: n, .. } if n == name));
        }
        let (code, message) = door.refusal(wish(&token, "web-3")).await;
        assert_eq!(code, Code::Unauthenticated);
        assert!(message.contains("used up") && message.contains("token create"), "{message}");
    }

    #[tokio::test]
    async fn tokens_that_open_nothing_say_why_only_to_those_who_know_the_secret() {
        let door = Door::new();
        let now = door.now;
        let old = TokenTerms { expires_at: now, ..terms(now, 1) };
        let (expired, revoked) =
            (door.token("old", old).await, door.token("gone", terms(now, 1)).await);
        let ended = door.service.store.write(move |tx| tokens::revoke(tx, "gone", now)).await;
        assert!(ended.unwrap());
        for (token, expected) in [
            (expired.as_str(), "the token has expired"),
            (revoked.as_str(), "the token was revoked"),
            ("old.guess", "the token is not known here"),
            ("none.secret", "the token is not known here"),
            ("", "the token is not known here"),
            ("' OR 1=1 --", "the token is not known here"),
        ] {
            let (code, message) = door.refusal(wish(token, "web-1")).await;
            assert_eq!(code, Code::Unauthenticated);
            assert!(message.starts_with(expected), "{token}: {message}");
        }
    }

    #[tokio::test]
    async fn a_name_in_use_is_refused_and_does_not_use_the_token_up() {
        let door = Door::new();
        let token = door.token("two", terms(door.now, 2)).await;
        door.enroll(wish(&token, "web-1")).await.unwrap();
        let (code, message) = door.refusal(wish(&token, "web-1")).await;
        assert_eq!(code, Code::AlreadyExists);
        assert!(message.contains("token create --replace web-1"), "{message}");
        door.enroll(wish(&token, "web-2")).await.unwrap();
    }

    #[tokio::test]
    async fn a_replacing_token_gives_name_and_history_back_and_ends_the_old_certificate() {
        let door = Door::new();
        let first = door.token("first", terms(door.now, 1)).await;
        let old = door.enroll(wish(&first, "web-1")).await.unwrap();
        let again = TokenTerms { replace: Some("web-1".into()), ..terms(door.now, 1) };
        let again = door.token("again", again).await;
        let mut revoked = door.service.store.revoked();
        let new = door.enroll(wish(&again, "fresh-hostname")).await.unwrap();
        assert_eq!(new.server, "web-1");
        assert!(revoked.has_changed().unwrap(), "open streams are told");
        revoked.mark_unchanged();
        let (was, is) = (
            ca::identity(&old.certificate_der).unwrap(),
            ca::identity(&new.certificate_der).unwrap(),
        );
        assert_eq!(was.uuid, is.uuid, "the same server");
        assert_eq!(door.admission(&old.certificate_der).await, Admission::Revoked);
        let known = Admission::Known { server: ServerId(1), name: "web-1".into() };
        assert_eq!(door.admission(&new.certificate_der).await, known);
    }

    #[tokio::test]
    async fn an_enrolment_whose_answer_got_lost_can_be_repeated() {
        let door = Door::new();
        let token = door.token("once", terms(door.now, 1)).await;
        let request = wish(&token, "web-1");
        let first = door.enroll(request.clone()).await.unwrap();
        let second = door.enroll(request.clone()).await.unwrap();
        let uuid = |der: &[u8]| ca::identity(der).unwrap().uuid;
        assert_eq!(uuid(&first.certificate_der), uuid(&second.certificate_der));
        let other_key = EnrollRequest { csr_der: csr(), ..request.clone() };
        assert_eq!(door.refusal(other_key).await.0, Code::Unauthenticated);
        let now = door.now;
        door.service.store.write(move |tx| fleet::revoke(tx, "web-1", now)).await.unwrap();
        assert_eq!(door.refusal(request).await.0, Code::Unauthenticated, "revoked is revoked");
        assert_eq!(door.admission(&second.certificate_der).await, Admission::Revoked);
    }

    #[tokio::test]
    async fn the_strongest_source_of_a_label_wins() {
        let door = Door::new();
        let fixed = TokenTerms { labels: map(&[("rack", "token")]), ..terms(door.now, 1) };
        let token = door.token("t", fixed).await;
        let mut request = wish(&token, "web-1");
        request.labels = map(&[("rack", "config"), ("role", "config"), ("os", "config")]);
        request.detected = map(&[("os", "detected"), ("virt", "kvm"), ("rack", "detected")]);
        door.enroll(request).await.unwrap();
        let all = [("os", "config"), ("rack", "token"), ("role", "config"), ("virt", "kvm")];
        assert_eq!(door.labels("web-1").await, map(&all));

        let store = &door.service.store;
        let set = map(&[("rack", "operator"), ("note", "x")]);
        assert!(store.write(move |tx| fleet::label(tx, "web-1", &set)).await.unwrap());
        assert_eq!(door.labels("web-1").await["rack"], "operator");
        let unset = map(&[("rack", ""), ("note", "")]);
        assert!(store.write(move |tx| fleet::label(tx, "web-1", &unset)).await.unwrap());
        assert_eq!(door.labels("web-1").await, map(&all), "the weaker ones come back");
        let hello = map(&[("role", "db")]);
        for changed in [true, false] {
            let hello = hello.clone();
            let write = store
                .write(move |tx| fleet::set_labels(tx, ServerId(1), LabelSource::Config, &hello));
            assert_eq!(write.await.unwrap(), changed, "nothing new, nothing written");
        }
        let now = [("os", "detected"), ("rack", "token"), ("role", "db"), ("virt", "kvm")];
        assert_eq!(door.labels("web-1").await, map(&now));
    }

    #[tokio::test]
    async fn bad_requests_name_what_is_wrong() {
        let door = Door::new();
        let token = door.token("t", terms(door.now, 1)).await;
        let good = wish(&token, "web-1");
        let long = "x".repeat(300);
        for (bad, code, text) in [
            (
                EnrollRequest { protocol_version: 0, ..good.clone() },
                Code::FailedPrecondition,
                "update the agent",
            ),
            (
                EnrollRequest { name: String::new(), ..good.clone() },
                Code::InvalidArgument,
                "name is empty",
            ),
            (
                EnrollRequest { name: long.clone(), ..good.clone() },
                Code::InvalidArgument,
                "longer than 64",
            ),
            (
                EnrollRequest { name: "a\x1b[2J".into(), ..good.clone() },
                Code::InvalidArgument,
                "only letters",
            ),
            (
                EnrollRequest { csr_der: b"no".to_vec(), ..good.clone() },
                Code::InvalidArgument,
                "signing request",
            ),
            (
                EnrollRequest { labels: map(&[("a b", "c")]), ..good.clone() },
                Code::InvalidArgument,
                "\"a b\"",
            ),
            (
                EnrollRequest { labels: map(&[("a", &long)]), ..good.clone() },
                Code::InvalidArgument,
                "value of \"a\"",
            ),
            (
                EnrollRequest { detected: map(&[("a", "b\n")]), ..good.clone() },
                Code::InvalidArgument,
                "control",
            ),
        ] {
            let (got, message) = door.refusal(bad).await;
            assert_eq!(got, code, "{message}");
            assert!(message.contains(text), "{message}");
        }
        door.enroll(good).await.expect("refusals use nothing up");
    }

    #[tokio::test]
    async fn renewal_knows_the_server_by_its_certificate_only() {
        let door = Door::new();
        let token = door.token("t", terms(door.now, 1)).await;
        let first = door.enroll(wish(&token, "web-1")).await.unwrap();
        let who = ca::identity(&first.certificate_der).unwrap();
        let (name, next) = door.service.renew(who.clone(), csr(), door.now).await.unwrap();
        assert_eq!(name, "web-1");
        let known = Admission::Known { server: ServerId(1), name };
        assert_eq!(door.admission(&next.der).await, known);
        assert_eq!(door.admission(&first.certificate_der).await, known, "both until the old ends");

        let stranger = ServerIdentity { uuid: ca::new_id(door.now).unwrap(), ..who.clone() };
        let refusal = door.service.renew(stranger, csr(), door.now).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied);
        let now = door.now;
        door.service.store.write(move |tx| fleet::revoke(tx, "web-1", now)).await.unwrap();
        let refusal = door.service.renew(who, csr(), door.now).await.unwrap_err();
        assert!(refusal.to_string().contains("was revoked"), "{refusal}");
        let bare = Request::new(RenewRequest { csr_der: csr() });
        let status = Enrollment::renew(&door.service, bare).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn a_peer_refused_too_often_is_not_heard_until_it_pauses() {
        let door = Door::new();
        let token = door.token("t", terms(door.now, 1)).await;
        for _ in 0..20 {
            assert_eq!(door.refusal(wish("no.token", "web-1")).await.0, Code::Unauthenticated);
        }
        assert_eq!(door.refusal(wish(&token, "web-1")).await.0, Code::ResourceExhausted);

        let (mut patience, start) = (Patience::default(), clock::instant());
        let peer: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::ffff:2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        (0..20).for_each(|_| patience.spend(peer, start));
        assert!(patience.is_over(neighbour, start) && !patience.is_over(other, start));
        assert!(!patience.is_over(peer, start + REFILL));
        for n in 0..10_000_u32 {
            patience.spend(IpAddr::V4(Ipv4Addr::from(n)), start);
        }
        assert!(patience.peers.len() <= PEERS_MAX);
        assert!(patience.is_over(peer, start), "a flood of others does not clear the worst");
    }
}
