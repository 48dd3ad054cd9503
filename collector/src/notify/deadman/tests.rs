//! Tests of the heartbeat against a receiver on loopback.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::DeadmanConfig;

/// Answers every GET with `status` and keeps its first line.
#[derive(Clone)]
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<String>>>,
    status: Arc<Mutex<u16>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ping/s3cr3t", listener.local_addr().unwrap());
        let this = Self { url, got: Arc::default(), status: Arc::new(Mutex::new(200)) };
        let receiver = this.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut text = vec![0; 4096];
                let n = stream.read(&mut text).await.unwrap();
                let text = String::from_utf8_lossy(&text[..n]).into_owned();
                receiver.got.lock().unwrap().push(text.lines().next().unwrap_or("").to_owned());
                let status = *receiver.status.lock().unwrap();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        this
    }

    fn n(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

fn config(url: &str) -> DeadmanConfig {
    DeadmanConfig { url: Some(url.to_owned()), ..DeadmanConfig::default() }
}

fn deadman(url: &str, store: &Store, is_ready: bool) -> Deadman {
    let ready = Arc::new(AtomicBool::new(is_ready));
    Deadman::new(&config(url), store.clone(), ready).unwrap().unwrap()
}

fn at_second(s: u64, start: Instant) -> Instant {
    start + Duration::from_secs(s)
}

#[tokio::test]
async fn it_pings_while_all_is_well_and_not_while_the_store_refuses() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut deadman = deadman(&receiver.url, &store, true);
    deadman.beat().await;
    assert_eq!(receiver.n(), 1);
    assert!(receiver.got.lock().unwrap()[0].starts_with("GET /ping/s3cr3t "));
    store.close().await.unwrap();
    deadman.beat().await;
    deadman.beat().await;
    assert_eq!(receiver.n(), 1, "a store that is closed is no healthy one");
    let why = deadman.health().await.unwrap_err();
    assert!(why.contains("the store does not write"), "{why}");
    drop((store, deadman.store.clone()));
    // The next life of it.
    let Deadman { store, .. } = deadman;
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let mut deadman = self::deadman(&receiver.url, &store, true);
    deadman.is_sick = true;
    deadman.beat().await;
    assert_eq!(receiver.n(), 2);
    assert!(!deadman.is_sick);
}

#[tokio::test]
async fn it_runs_at_its_interval_from_the_moment_the_detector_is_ready() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (ready, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let made = Deadman::new(&config(&receiver.url), store, Arc::clone(&ready)).unwrap();
    let mut deadman = made.unwrap();
    deadman.interval = Duration::from_millis(30);
    let task = tokio::spawn(deadman.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.n(), 0, "not before");
    ready.store(true, Ordering::Release);
    while receiver.n() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_ping_that_fails_says_why_without_the_secret() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut deadman = deadman(&receiver.url, &store, true);
    let origin = receiver.url.trim_end_matches("/ping/s3cr3t");
    assert_eq!(deadman.ping().await.unwrap(), origin);
    for status in [500, 404, 301] {
        *receiver.status.lock().unwrap() = status;
        let (to, why) = deadman.ping().await.unwrap_err();
        assert_eq!(to, origin);
        assert!(why.contains(&status.to_string()), "{why}");
    }
    let (_, why) =
        self::deadman("http://127.0.0.1:9/s3cr3t", &store, true).ping().await.unwrap_err();
    assert!(!why.contains("s3cr3t"), "{why}");
    deadman.beat().await;
    assert!(deadman.is_unheard);
    *receiver.status.lock().unwrap() = 200;
    deadman.beat().await;
    assert!(!deadman.is_unheard);
}

#[tokio::test]
async fn a_url_file_that_was_changed_to_what_check_refuses_is_not_asked() {
    use std::os::unix::fs::PermissionsExt;
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let path = dir.path().join("url");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&receiver.url);
    let config = DeadmanConfig { url_file: Some(path.clone()), ..DeadmanConfig::default() };
    let ready = Arc::new(AtomicBool::new(true));
    let deadman = Deadman::new(&config, store, ready).unwrap().unwrap();
    deadman.ping().await.unwrap();
    write(&receiver.url.replace("http://", "http://ann:s3cr3t@"));
    let (_, why) = deadman.ping().await.unwrap_err();
    assert!(why.contains("would be seen") && !why.contains("s3cr3t"), "{why}");
    assert_eq!(receiver.n(), 1);
}

#[test]
fn the_detector_is_sick_when_it_stands_before_batches_and_the_clerk_when_a_page_waits() {
    let (start, now) = (clock::instant(), UnixMillis(1_000_000));
    let at = |read_upto, oldest_page| Progress { read_upto, oldest_page };
    // Read up to, arrived, second; whether it is well.
    let steps = [
        (5, 5, 0, true),
        (5, 5, 900, true),   // nothing comes
        (5, 9, 901, true),   // something came
        (5, 20, 960, true),  // it has a minute
        (5, 30, 961, false), // and no more
        (6, 30, 970, true),  // it moves
        (6, 30, 1029, true),
        (6, 31, 1030, false),
        (31, 31, 1031, true),
    ];
    let mut watch = Watch::default();
    for (read, arrived, second, expected) in steps {
        let told = watch.look(at(read, None), arrived, now, at_second(second, start));
        assert_eq!(told.is_ok(), expected, "{read} of {arrived} at {second}: {told:?}");
    }
    for (age_s, expected) in [(-30, true), (0, true), (60, true), (61, false)] {
        let page = Some(UnixMillis(now.0 - age_s * 1000));
        let told = Watch::default().look(at(1, page), 1, now, start);
        assert_eq!(told.is_ok(), expected, "{age_s}: {told:?}");
    }
}

#[test]
fn a_config_that_is_no_good_is_said_without_its_secret() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("url");
    let with = |url: Option<&str>, is_file: bool| {
        let config = DeadmanConfig {
            url: url.map(str::to_owned),
            url_file: is_file.then(|| path.clone()),
            ..DeadmanConfig::default()
        };
        fault(&config).map(|fault| fault.to_string()).unwrap_or_default()
    };
    assert_eq!(with(None, false), "");
    assert_eq!(with(Some("https://hc.example/s3cr3t"), false), "");
    let told = with(Some("ftp://hc.example/s3cr3t"), false);
    assert!(told.contains("url: \"ftp\"") && !told.contains("s3cr3t"), "{told}");
    let told = with(Some("https://ann:s3cr3t@hc.example/"), false);
    assert!(told.contains("would be seen") && !told.contains("s3cr3t"), "{told}");
    assert!(with(Some("https://x/"), true).contains("is set beside url"));
    assert!(with(None, true).contains("No such file"));
    std::fs::write(&path, "https://hc.example/s3cr3t\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(with(None, true).contains("everybody can use it"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(with(None, true), "");
    std::fs::write(&path, "s3cr3t").unwrap();
    let told = with(None, true);
    assert!(told.contains("is no URL") && !told.contains("s3cr3t"), "{told}");
}
