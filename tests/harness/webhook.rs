//! A webhook receiver that keeps every delivery as it came and can refuse some of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::clock;
use crate::root::Root;

/// Signs the messages of a collector that was given [`Webhook::toml`].
const SECRET: &str = "correct horse battery staple";

/// One POST as it came.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Value of `X-Gatewatch-Signature`.
    pub signature: String,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The status it was answered with.
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

/// The receiver; stops in `Drop`.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Delivery>>>,
    secret: Root,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Listens on loopback; answers the first `n_refused` POSTs with 500, all others with 200.
    #[must_use]
    pub fn start(n_refused: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let got = Arc::new(Mutex::new(Vec::new()));
        let left = AtomicU32::new(n_refused);
        let thread = {
            let (stop, got) = (Arc::clone(&stop), Arc::clone(&got));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let refuse = left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok();
                    let status = if refuse { 500 } else { 200 };
                    if let Some(delivery) = stream.ok().and_then(|s| receive(s, status)) {
                        got.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
                    }
                }
            })
        };
        let secret = Root::new();
        secret.secret("webhook.key", SECRET);
        Self { address, stop, got, secret, thread: Some(thread) }
    }

    /// Where to POST.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What `collector.toml` says so that it hears of everything.
    #[must_use]
    pub fn toml(&self) -> String {
        let (url, key) = (self.url(), self.secret.join("webhook.key"));
        let key = key.display();
        format!(
            "[[notify]]\nkind = \"webhook\"\nurl = \"{url}\"\nsecret_file = \"{key}\"\n\
             min_severity = \"info\"\n"
        )
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

fn receive(stream: TcpStream, status: u16) -> Option<Delivery> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut reader = BufReader::new(stream);
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
    let at_ms = clock::now_ms();
    let answer =
        format!("HTTP/1.1 {status} Test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).ok()?;
    Some(Delivery { signature, body, answered: status, at_ms })
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
