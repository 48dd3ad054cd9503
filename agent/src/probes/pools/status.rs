//! The status pages of pools that have one and let the agent ask: counters only PHP-FPM itself keeps.
//!
//! An extra, never what saturation is seen by. A page takes a worker for a moment, so a pool that is
//! nearly full is not asked, nor one that would have to start a worker for it. 500 ms a page in all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::fastcgi::{self, ANSWER_BYTES_MAX, AnswerError};
use super::uses::Address;
use crate::probes::Values;
use crate::timer::{patience, within};

/// Time between two rounds.
const GAP: Duration = Duration::from_secs(30);
/// For all there is to one page.
const PATIENCE: Duration = patience(Duration::from_millis(500));
/// Pages asked for in one round; those of further pools come in the next ones.
const PAGES_MAX: usize = 20;
/// A pool that refused is asked again after this.
const REFUSED_GAP: Duration = Duration::from_secs(600);

/// A page to ask for.
#[derive(Clone, Debug)]
pub(super) struct Page {
    /// `phpfpm.pool=NAME`
    pub(super) attribute: String,
    /// Name of the pool.
    pub(super) pool: String,
    /// `pm.status_path`
    pub(super) path: String,
    /// Where it is asked for.
    pub(super) listen: String,
    /// The pool's configuration, for the fix.
    pub(super) source: String,
}

/// What a page says, of a JSON object with many more.
#[derive(Debug, Default, PartialEq, serde::Deserialize)]
struct Said {
    pool: String,
    #[serde(rename = "accepted conn")]
    n_accepted: Option<u64>,
    #[serde(rename = "max listen queue")]
    n_waiting_max: Option<u64>,
    #[serde(rename = "max active processes")]
    n_active_max: Option<u64>,
    #[serde(rename = "max children reached")]
    n_max_children_reached: Option<u64>,
    #[serde(rename = "slow requests")]
    n_slow: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("no answer within {PATIENCE:?}")]
    Late,
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("the answer is no status page of this pool")]
    NoPage,
}

impl PageError {
    /// A Unix socket whose queue is full does not let wait: it says "try again" (EAGAIN).
    fn connect(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::Late } else { Self::Connect(error) }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pages {
    asked_at: Option<Instant>,
    /// Of the pages, how many were asked for in rounds before.
    turn: usize,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    values: Values,
    is_asking: bool,
    refused: BTreeMap<String, Instant>,
    told: BTreeSet<String>,
}

impl Pages {
    /// True when a round may begin.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.asked_at.is_none_or(|at| now >= at + GAP)
    }

    /// Starts a round in the background of the current runtime; without one nothing is asked.
    pub(super) fn ask(&mut self, pages: Vec<Page>, now: Instant) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.asked_at = Some(now);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let may_ask = |page: &Page| {
            shared.refused.get(&page.attribute).is_none_or(|at| now >= *at + REFUSED_GAP)
        };
        let mut pages: Vec<Page> = pages.into_iter().filter(may_ask).collect();
        if shared.is_asking || pages.is_empty() {
            return;
        }
        self.turn %= pages.len();
        pages.rotate_left(self.turn);
        pages.truncate(PAGES_MAX);
        self.turn += pages.len();
        shared.is_asking = true;
        drop(shared);
        let shared = Arc::clone(&self.shared);
        runtime.spawn(async move {
            for page in pages {
                let said = within(PATIENCE, ask(&page)).await.unwrap_or(Err(PageError::Late));
                note(&shared, &page, said, now);
            }
            shared.lock().unwrap_or_else(PoisonError::into_inner).is_asking = false;
        });
    }

    /// What came since the last call.
    pub(super) fn take(&mut self) -> Values {
        std::mem::take(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner).values)
    }
}

fn note(shared: &Mutex<Shared>, page: &Page, said: Result<Said, PageError>, now: Instant) {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    match said {
        Ok(said) => {
            shared.refused.remove(&page.attribute);
            shared.told.remove(&page.attribute);
            shared.values.extend(values(&page.attribute, &said));
        }
        Err(error) => {
            // One that is only late may be in time the next time.
            if !matches!(error, PageError::Late) {
                shared.refused.insert(page.attribute.clone(), now);
            }
            if shared.told.insert(page.attribute.clone()) {
                let (pool, fix) = (&page.pool, fix(&error, page));
                let error = crate::chain(&error);
                tracing::info!(%pool, error, fix, "status page of a pool is not read: its counters are absent");
            }
        }
    }
}

fn fix(error: &PageError, page: &Page) -> String {
    let source = page.source.rsplit_once(':').map_or(page.source.as_str(), |(file, _)| file);
    match error {
        PageError::Connect(error) if error.kind() == io::ErrorKind::PermissionDenied => format!(
            "listen.acl_users = WEB-SERVER-USER,gatewatch-agent in {source}, or pm.status_listen = 127.0.0.1:PORT"
        ),
        PageError::Broken(_) | PageError::Answer(AnswerError::Cut) => {
            format!("listen.allowed_clients in {source} must hold 127.0.0.1")
        }
        _ => format!("see pm.status_path in {source}"),
    }
}

fn values(attribute: &str, said: &Said) -> Values {
    let all = [
        ("phpfpm.status.accepted_connections", said.n_accepted),
        ("phpfpm.status.max_listen_queue", said.n_waiting_max),
        ("phpfpm.status.max_active_processes", said.n_active_max),
        ("phpfpm.status.max_children_reached", said.n_max_children_reached),
        ("phpfpm.status.slow_requests", said.n_slow),
    ];
    let known = all.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
    known.map(|(metric, value)| (metric, attribute.to_owned(), value as f64)).collect()
}

async fn ask(page: &Page) -> Result<Said, PageError> {
    let answer = match Address::parse(&page.listen) {
        Some(Address::Unix(_)) => {
            let path = PathBuf::from(page.listen.trim_start_matches("unix:"));
            talk(UnixStream::connect(path).await.map_err(PageError::connect)?, &page.path).await?
        }
        Some(Address::Tcp(ip, port)) => {
            let ip: IpAddr = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
            let stream = TcpStream::connect((ip, port)).await.map_err(PageError::connect)?;
            talk(stream, &page.path).await?
        }
        None => return Err(PageError::NoPage),
    };
    let said = parse(&fastcgi::body(&answer)?).ok_or(PageError::NoPage)?;
    if said.pool == page.pool { Ok(said) } else { Err(PageError::NoPage) }
}

fn parse(body: &[u8]) -> Option<Said> {
    serde_json::from_slice(body).ok()
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> Result<Vec<u8>, PageError> {
    stream.write_all(&fastcgi::request(path, "json")).await.map_err(PageError::Broken)?;
    let mut answer = Vec::with_capacity(2048);
    while !fastcgi::is_whole(&answer)? {
        let room = ANSWER_BYTES_MAX - answer.len();
        let mut part = (&mut stream).take(room as u64);
        if part.read_buf(&mut answer).await.map_err(PageError::Broken)? == 0 {
            return Err(AnswerError::Cut.into());
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// As PHP-FPM 8.2 writes it.
    const PAGE: &str = r#"{"pool":"www","process manager":"dynamic","start time":1795176067,
        "start since":99,"accepted conn":1234,"listen queue":0,"max listen queue":5,
        "listen queue len":511,"idle processes":1,"active processes":1,"total processes":2,
        "max active processes":2,"max children reached":3,"slow requests":4,"memory peak":2097152}"#;

    fn page(listen: String) -> Page {
        let text = |text: &str| text.to_owned();
        Page {
            attribute: text("phpfpm.pool=www"),
            pool: text("www"),
            path: text("/status"),
            listen,
            source: text("/etc/php/pool.d/www.conf:1"),
        }
    }

    #[test]
    fn a_status_page_is_read_and_what_it_does_not_say_is_absent() {
        let said = parse(PAGE.as_bytes()).expect("a page");
        let values = values("phpfpm.pool=www", &said);
        let numbers: Vec<_> = values.iter().map(|(_, _, value)| *value as u64).collect();
        assert_eq!(numbers, [1234, 5, 2, 3, 4]);
        for (metric, ..) in &values {
            assert!(wire::catalog::find(metric).is_some(), "{metric} is not in the catalog");
        }
        let old = parse(br#"{"pool":"www","accepted conn":7}"#).expect("an old one");
        assert_eq!((old.n_accepted, old.n_slow), (Some(7), None));
        for other in
            ["", "[]", "{}", "<html>", r#"{"pool":7}"#, r#"{"pool":"w","slow requests":-1}"#]
        {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }

    /// Serves one connection with these bytes and asks for the page.
    async fn answered(bytes: Vec<u8>) -> Result<Said, PageError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let page = page(listener.local_addr().unwrap().to_string());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _n = stream.read(&mut request).await.unwrap();
            stream.write_all(&bytes).await.ok(); // the client may have had enough
        };
        let (asked, ()) = tokio::join!(within(PATIENCE, ask(&page)), serve);
        asked.unwrap_or(Err(PageError::Late))
    }

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, kind, 0, 1];
        bytes.extend((content.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(content);
        bytes
    }

    #[test]
    fn good_and_hostile_answers_are_told_apart() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = |bytes: Vec<u8>| runtime.block_on(answered(bytes));
        let of_page = |text: &str| {
            let mut page = b"Content-Type: application/json\r\n\r\n".to_vec();
            page.extend(text.as_bytes());
            [record(6, &page), record(3, &[0; 8])].concat()
        };
        assert_eq!(ask(of_page(PAGE)).unwrap().n_slow, Some(4));
        let other = ask(of_page(&PAGE.replace("\"www\"", "\"other\"")));
        assert!(matches!(other, Err(PageError::NoPage)), "{other:?}");
        let http = ask(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
        assert!(matches!(http, Err(PageError::Answer(AnswerError::Protocol))), "{http:?}");
        let endless = ask(record(6, &vec![b'x'; 60_000]).repeat(3));
        assert!(matches!(endless, Err(PageError::Answer(AnswerError::Cut))), "{endless:?}");
        let cut = ask(record(6, b"Status: 200\r\n"));
        assert!(matches!(cut, Err(PageError::Answer(AnswerError::Cut))), "{cut:?}");
    }

    #[test]
    fn a_full_backlog_is_late_and_no_refusal() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&fd, 0).unwrap();
        let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = runtime.block_on(ask(&page(path.display().to_string())));
        assert!(matches!(asked, Err(PageError::Late)), "{asked:?}");
    }

    #[test]
    fn a_socket_that_refuses_is_told_once_with_the_fix_and_left_alone() {
        let shared = Mutex::new(Shared::default());
        let page = page("/run/php/www.sock".to_owned());
        let denied = || PageError::Connect(io::ErrorKind::PermissionDenied.into());
        let now = clock::instant();
        note(&shared, &page, Err(denied()), now);
        note(&shared, &page, Err(denied()), now);
        let shared = shared.into_inner().unwrap();
        assert!(shared.values.is_empty() && shared.refused.len() == 1 && shared.told.len() == 1);
        let fix = fix(&denied(), &page);
        assert!(fix.contains("gatewatch-agent in /etc/php/pool.d/www.conf"), "{fix}");
    }
}
