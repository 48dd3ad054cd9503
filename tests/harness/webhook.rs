//! A webhook receiver that keeps every delivery as it came, and answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::clock;
use crate::root::Root;

/// Signs the messages of a collector that was given [`Webhook::toml`].
pub const WEBHOOK_SECRET: &str = "correct horse battery staple";

/// How long a stalled sender is waited for, and how often one that hangs looks whether it is over.
const READ_LIMIT: Duration = Duration::from_secs(10);
const HANG_POLL: Duration = Duration::from_millis(100);

/// One POST as it came.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Value of `X-Gatewatch-Signature`.
    pub signature: String,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The status it was answered with; 0 without an answer.
    pub answered: u16,
    /// When the last byte had come, milliseconds since the epoch.
    pub at_ms: i64,
}

impl Delivery {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a webhook's body is JSON")
    }

    /// Its id, which is the same on every try.
    #[must_use]
    pub fn id(&self) -> String {
        self.json()["delivery"].as_str().expect("a message has a delivery").to_owned()
    }

    /// Whether the receiver took it.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        (200..300).contains(&self.answered)
    }

    /// Checks `t=UNIX_SECONDS,v1=HEX` as a receiver would: HMAC-SHA256 of `t.body`, t within 60 s.
    #[must_use]
    pub fn is_signed_with(&self, secret: &[u8]) -> bool {
        let Some((t, v1)) = self.signature.split_once(',') else { return false };
        let (Some(t), Some(v1)) = (t.strip_prefix("t="), v1.strip_prefix("v1=")) else {
            return false;
        };
        let fresh = t.parse::<i64>().is_ok_and(|t| (clock::now_s() - t).abs() < 600);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let signed = [t.as_bytes(), b".", &self.body].concat();
        let tag = unhex(v1).unwrap_or_default();
        fresh && ring::hmac::verify(&key, &signed, &tag).is_ok()
    }
}

/// What a receiver does with a request it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Answers with this status.
    Status(u16),
    /// The same, with a header line `NAME: VALUE`.
    With(u16, String),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
}

/// What it does with the n-th request, from 0.
type Script = Arc<dyn Fn(u32) -> Reply + Send + Sync>;

/// The receiver; stops in `Drop`.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Delivery>>>,
    secret: Root,
    /// Its certificate is in the file `ca.pem` of `secret`.
    is_tls: bool,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Listens on loopback; answers the first `n_refused` POSTs with 500, all others with 200.
    #[must_use]
    pub fn start(n_refused: u32) -> Self {
        Self::scripted(move |n| Reply::Status(if n < n_refused { 500 } else { 200 }))
    }

    /// Listens on loopback; does with the n-th request, from 0, what `script` says.
    #[must_use]
    pub fn scripted(script: impl Fn(u32) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(Arc::new(script), None, Root::new())
    }

    /// Takes everything over TLS, with a certificate it signed itself.
    #[must_use]
    pub fn tls() -> Self {
        let secret = Root::new();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate can be made");
        secret.write("ca.pem", &made.cert.pem());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it is a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("the key is that of the certificate");
        Self::run(Arc::new(|_| Reply::Status(200)), Some(Arc::new(config)), secret)
    }

    fn run(script: Script, tls: Option<Arc<ServerConfig>>, secret: Root) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let got = Arc::new(Mutex::new(Vec::new()));
        secret.secret("webhook.key", WEBHOOK_SECRET);
        let is_tls = tls.is_some();
        let line =
            Line { script, tls, stop: Arc::clone(&stop), got: Arc::clone(&got), n: Arc::default() };
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if line.stop.load(Ordering::Relaxed) {
                    return;
                }
                let line = line.clone();
                // Ends with its connection: a request that hangs holds up no other.
                std::thread::spawn(move || stream.ok().and_then(|stream| line.serve(stream)));
            }
        });
        Self { address, stop, got, secret, is_tls, thread: Some(thread) }
    }

    /// Where to POST.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http{}://{}/hook", if self.is_tls { "s" } else { "" }, self.address)
    }

    /// What `collector.toml` says so that it hears of everything.
    #[must_use]
    pub fn toml(&self) -> String {
        self.toml_at(&self.url())
    }

    /// The same with another URL, e.g. with more in its path.
    #[must_use]
    pub fn toml_at(&self, url: &str) -> String {
        let key = self.secret.join("webhook.key");
        let key = key.display();
        format!(
            "[[notify]]\nkind = \"webhook\"\nurl = \"{url}\"\nsecret_file = \"{key}\"\n\
             min_severity = \"info\"\n"
        )
    }

    /// The line for `toml` that makes its certificate one to trust.
    #[must_use]
    pub fn ca_toml(&self) -> String {
        assert!(self.is_tls, "it has a certificate");
        format!("ca_file = \"{}\"\n", self.secret.join("ca.pem").display())
    }

    /// Everything that came, refused ones too, oldest first.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address)); // wakes accept()
        if let Some(thread) = self.thread.take() {
            thread.join().ok(); // a panic in it has been printed already
        }
    }
}

/// What each connection needs.
#[derive(Clone)]
struct Line {
    script: Script,
    tls: Option<Arc<ServerConfig>>,
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Delivery>>>,
    n: Arc<AtomicU32>,
}

impl Line {
    /// Reads one request and answers it; `None` when the connection broke or is no TLS.
    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(READ_LIMIT)).ok()?;
        let raw = stream.try_clone().ok()?;
        match &self.tls {
            None => self.answer(BufReader::new(stream), &raw),
            Some(config) => {
                let session = ServerConnection::new(Arc::clone(config)).ok()?;
                self.answer(BufReader::new(StreamOwned::new(session, stream)), &raw)
            }
        }
    }

    fn answer<S: Read + Write>(&self, mut reader: BufReader<S>, raw: &TcpStream) -> Option<()> {
        let (signature, body) = receive(&mut reader)?;
        let at_ms = clock::now_ms();
        let reply = (self.script)(self.n.fetch_add(1, Ordering::Relaxed));
        let (answered, header) = match &reply {
            Reply::Status(status) => (*status, String::new()),
            Reply::With(status, header) => (*status, format!("{header}\r\n")),
            Reply::Hang | Reply::Close => (0, String::new()),
        };
        // Kept before it is answered: what the sender does next comes after it.
        let nth = self.keep(Delivery { signature, body, answered, at_ms });
        match reply {
            Reply::Hang => {
                raw.set_read_timeout(Some(HANG_POLL)).ok()?;
                // Until the other side hangs up; there is nothing to read.
                while !self.stop.load(Ordering::Relaxed) && !matches!(raw.peek(&mut [0]), Ok(0)) {}
                None
            }
            Reply::Close => None,
            Reply::Status(_) | Reply::With(..) => {
                let answer = format!(
                    "HTTP/1.1 {answered} Test\r\n{header}Content-Length: 0\r\n\
                     Connection: close\r\n\r\n"
                );
                let stream = reader.get_mut();
                let sent = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
                if sent.is_err() {
                    self.all()[nth].answered = 0; // it hung up meanwhile
                }
                sent.ok()
            }
        }
    }

    fn keep(&self, delivery: Delivery) -> usize {
        let mut all = self.all();
        all.push(delivery);
        all.len() - 1
    }

    fn all(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a request; its signature and body.
fn receive(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut length, mut signature) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        } else if name.eq_ignore_ascii_case("x-gatewatch-signature") {
            value.trim().clone_into(&mut signature);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((signature, body))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n * 16 + d)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_signature_is_taken() {
        let body = br#"{"event":"opened"}"#.to_vec();
        let t = clock::now_s();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
        let tag = ring::hmac::sign(&key, &[format!("{t}.").as_bytes(), &body].concat());
        let hex = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
        let good = Delivery { signature: format!("t={t},v1={hex}"), body, answered: 200, at_ms: 0 };
        assert!(good.is_signed_with(b"secret"));
        assert!(!good.is_signed_with(b"other"));
        let bad = Delivery { body: b"{}".to_vec(), ..good.clone() };
        assert!(!bad.is_signed_with(b"secret"));
        let old = Delivery { signature: format!("t=1,v1={hex}"), ..good };
        assert!(!old.is_signed_with(b"secret"));
    }
}
