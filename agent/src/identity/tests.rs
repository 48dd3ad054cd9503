//! Enrolment and renewal against a collector with a real port, and each way they can fail.

use super::*;
use crate::uplink::fake_collector::FakeCollector;
use std::os::unix::fs::PermissionsExt as _;
use tokio::io::AsyncWriteExt as _;
use tonic::Status;

async fn refusal(ask: &Enrolment) -> String {
    crate::chain(&enroll(ask, clock::now()).await.unwrap_err())
}

#[tokio::test]
async fn a_server_enrols_once_and_keeps_its_key_to_itself() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ask = collector.enrolment(dir.path());
    let Enrolled::New(identity) = enroll(&ask, clock::now()).await.unwrap() else { panic!() };
    assert_eq!(identity.server, "web-1");
    let file = dir.path().join(FILE);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!dir.path().join(PENDING_KEY).exists());
    assert!(!format!("{identity:?}").contains(&identity.key));

    // Again: nothing happens, not even a call; only the address is taken over.
    let again = Enrolment { collector: "127.0.0.1:1".into(), token: "used up".into(), ..ask };
    let Enrolled::Already(known) = enroll(&again, clock::now()).await.unwrap() else { panic!() };
    assert_eq!(known.certificate, identity.certificate);
    assert_eq!(Identity::load(dir.path()).unwrap().unwrap().collector, "127.0.0.1:1");
}

#[tokio::test]
async fn an_expired_or_refused_certificate_is_enrolled_anew() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ask = collector.enrolment(dir.path());
    enroll(&ask, clock::now()).await.unwrap();
    let late = clock::now().plus(Duration::from_secs(31 * 86_400));
    let Enrolled::New(second) = enroll(&ask, late).await.unwrap() else { panic!("expired") };
    second.mark_refused(dir.path());
    let Enrolled::New(_) = enroll(&ask, clock::now()).await.unwrap() else { panic!("refused") };
    let again = enroll(&ask, clock::now()).await.unwrap();
    assert!(matches!(again, Enrolled::Already(_)), "the mark was for the old one");
}

#[tokio::test]
async fn an_enrolment_whose_answer_was_lost_asks_again_with_the_same_key() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ask = collector.enrolment(dir.path());
    collector.with(|c| c.loses_answer = true);
    assert!(refusal(&ask).await.contains("gave no usable answer"));
    assert_eq!(Identity::load(dir.path()).unwrap(), None);
    let mode = fs::metadata(dir.path().join(PENDING_KEY)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    collector.with(|c| c.loses_answer = false);
    enroll(&ask, clock::now()).await.unwrap();
    let public_key = |csr: &Vec<u8>| {
        let csr = rcgen::CertificateSigningRequestParams::from_der(&csr.clone().into()).unwrap();
        rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec()
    };
    let keys = collector.with(|c| c.csrs.iter().map(public_key).collect::<Vec<_>>());
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_wrong_token_is_told_in_the_collectors_words() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ask = Enrolment { token: "old".into(), ..collector.enrolment(dir.path()) };
    let told = refusal(&ask).await;
    assert!(told.contains("refused the enrolment: the token is not known here"), "{told}");
}

#[tokio::test]
async fn a_wrong_ca_hash_names_both_and_sends_no_token() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let wrong = CaHash([7; 32]);
    let ask = Enrolment { ca_hash: wrong, ..collector.enrolment(dir.path()) };
    let told = refusal(&ask).await;
    assert!(told.contains("is not the one the token was made for"), "{told}");
    assert!(told.contains(&wrong.to_string()), "{told}");
    assert!(told.contains(&collector.ca_hash.to_string()), "{told}");
    assert!(told.ends_with("ask for a new command"), "{told}");
    assert_eq!(collector.with(|c| c.csrs.len()), 0);
}

#[tokio::test]
async fn a_collector_that_cannot_be_reached_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let collector = FakeCollector::start().await;
    let ask = Enrolment { collector: "127.0.0.1:1".into(), ..collector.enrolment(dir.path()) };
    let told = refusal(&ask).await;
    assert!(
        told.starts_with("cannot reach the collector at 127.0.0.1:1 (Connection refused"),
        "{told}"
    );
    let ask = Enrolment { collector: "nowhere.invalid:8502".into(), ..ask };
    let told = refusal(&ask).await;
    assert!(told.starts_with("cannot reach the collector at nowhere.invalid:8502"), "{told}");
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_said_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let collector = FakeCollector::start().await;
    let ask = Enrolment { collector: address, ..collector.enrolment(dir.path()) };
    let told = refusal(&ask).await;
    assert!(told.contains("does not answer like a collector (it speaks no TLS)"), "{told}");
    assert!(told.contains("8502"), "{told}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_the_collectors() {
    let collector = FakeCollector::start_named("www.example").await;
    let dir = tempfile::tempdir().unwrap();
    let told = refusal(&collector.enrolment(dir.path())).await;
    assert!(told.contains("its certificate is not for collector.gatewatch"), "{told}");
}

#[tokio::test]
async fn a_collector_of_another_fleet_is_refused() {
    let (ours, other) = (FakeCollector::start().await, FakeCollector::start().await);
    let dir = tempfile::tempdir().unwrap();
    let ask = ours.enrolment(dir.path());
    let Enrolled::New(identity) = enroll(&ask, clock::now()).await.unwrap() else { panic!() };
    let address = other.address.to_string();
    let error = renew(&identity, &address, dir.path()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Link(LinkError::ForeignCollector { .. })), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_fleet_is_refused_and_the_reason_reaches_us() {
    let (ours, other) = (FakeCollector::start().await, FakeCollector::start().await);
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("ours"), dir.path().join("other"));
    let ask = ours.enrolment(&here);
    let Enrolled::New(identity) = enroll(&ask, clock::now()).await.unwrap() else { panic!() };
    enroll(&other.enrolment(&there), clock::now()).await.unwrap();
    let stranger = Identity::load(&there).unwrap().unwrap();
    // Trusts the collector, but shows a certificate that another CA made.
    let mixed = Identity { ca: identity.ca.clone(), ..stranger };
    let error = renew(&mixed, &ours.address.to_string(), dir.path()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Link(LinkError::OursRefused { .. })), "{error}");
    assert!(error.to_string().contains("it is of another CA"), "{error}");
}

fn a_day_slow() -> UnixMillis {
    clock::now().minus(Duration::from_secs(86_400))
}

fn a_day_fast() -> UnixMillis {
    clock::now().plus(Duration::from_secs(86_400))
}

fn four_days_slow() -> UnixMillis {
    clock::now().minus(Duration::from_secs(4 * 86_400))
}

fn two_months_fast() -> UnixMillis {
    clock::now().plus(Duration::from_secs(60 * 86_400))
}

#[tokio::test]
async fn a_clock_one_day_off_connects_and_a_worse_one_is_told_with_both_times() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ask = collector.enrolment(dir.path());
    let Enrolled::New(identity) = enroll(&ask, clock::now()).await.unwrap() else { panic!() };
    let connect = async |clock| {
        identity.connector(&identity.collector, clock).unwrap().connect().await.map(|_| ())
    };
    assert_eq!(connect(a_day_slow).await, Ok(()));
    assert_eq!(connect(a_day_fast).await, Ok(()));
    let slow = connect(four_days_slow).await.unwrap_err();
    assert!(matches!(slow, LinkError::NotYetValid { .. }), "{slow}");
    assert!(slow.to_string().contains("the clock of this server may be wrong"), "{slow}");
    let shown = four_days_slow().to_rfc3339();
    assert!(slow.to_string().contains(&shown[..13]), "{slow} does not show {shown}");
    let fast = connect(two_months_fast).await.unwrap_err();
    assert!(matches!(fast, LinkError::Expired { .. }), "{fast}");
    assert!(fast.to_string().contains("check the clock of this server"), "{fast}");
}

#[tokio::test]
async fn a_certificate_renews_itself_when_it_is_due() {
    let collector = FakeCollector::start().await;
    let dir = tempfile::tempdir().unwrap();
    collector.with(|c| c.renew_at = Some(clock::now()));
    let ask = collector.enrolment(dir.path());
    let Enrolled::New(first) = enroll(&ask, clock::now()).await.unwrap() else { panic!() };
    let (tx, mut rx) = watch::channel(Arc::new(first.clone()));
    let stop = CancellationToken::new();
    let address = collector.address.to_string();
    let task = tokio::spawn(keep_fresh(dir.path().to_owned(), address, tx, stop.clone()));
    rx.changed().await.unwrap();
    let second = Arc::clone(&rx.borrow());
    assert_ne!(second.certificate, first.certificate);
    assert_ne!(second.key, first.key);
    assert_eq!(Identity::load(dir.path()).unwrap().as_ref(), Some(second.as_ref()));
    assert_eq!(collector.with(|c| c.n_renewals), 1);
    second.connector(&second.collector, clock::now).unwrap().connect().await.unwrap();
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn a_damaged_identity_says_so_and_is_not_mistaken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), None);
    fs::write(dir.path().join(FILE), b"{\"version\":1,").unwrap();
    let error = Identity::load(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("enrol again"), "{error}");
}

#[test]
fn hashes_are_read_as_they_are_printed() {
    let hash = CaHash::of(b"ca");
    assert_eq!(CaHash::parse(&hash.to_string()), Ok(hash));
    for bad in ["", "sha256:", "sha256:12", "md5:00", &hash.to_string()[7..]] {
        assert!(CaHash::parse(bad).unwrap_err().contains("64 hex digits"), "{bad}");
    }
    assert_eq!(from_hex("0g"), None);
    assert_eq!(from_hex("0"), None);
}

#[test]
fn statuses_become_errors_with_a_fix() {
    let connector = Connector::new("c:1", Trust::Pin(CaHash([0; 32])), None, clock::now).unwrap();
    for (status, expected) in [
        (Status::already_exists("taken"), "the collector at c:1 refused the enrolment: taken"),
        (Status::unimplemented("v9"), "upgrade the older of the two programs"),
        (Status::unavailable("busy"), "gave no usable answer: Unavailable: busy"),
    ] {
        let told = refused(&connector, "c:1", "the enrolment", &status).to_string();
        assert!(told.contains(expected), "{told}");
    }
}
