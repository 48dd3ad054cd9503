//! An HTTP client that records exactly what clients saw.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::wait::pause;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What came back, by site, second and status. Status 0: no answer at all.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    by: BTreeMap<(String, i64, u16), u64>,
}

impl Seen {
    /// Responses with this status from this site.
    #[must_use]
    pub fn n(&self, site: &str, status: u16) -> u64 {
        self.sum(|s, _, st| s == site && st == status)
    }

    /// Responses with this status from all sites.
    #[must_use]
    pub fn n_status(&self, status: u16) -> u64 {
        self.sum(|_, _, st| st == status)
    }

    /// Responses by site and status.
    #[must_use]
    pub fn by_site_and_status(&self) -> BTreeMap<(String, u32), u64> {
        let mut sums = BTreeMap::new();
        for ((site, _, status), n) in &self.by {
            *sums.entry((site.clone(), u32::from(*status))).or_default() += n;
        }
        sums
    }

    /// First second in which a response with one of these statuses came back.
    #[must_use]
    pub fn first_second(&self, status: u16) -> Option<i64> {
        self.by.keys().filter(|(_, _, st)| *st == status).map(|(_, second, _)| *second).min()
    }

    /// Everything in `other` added to this.
    pub fn add(&mut self, other: Self) {
        for (key, n) in other.by {
            *self.by.entry(key).or_default() += n;
        }
    }

    /// Records one response.
    pub fn record(&mut self, site: &str, status: u16) {
        *self.by.entry((site.to_owned(), clock::now_s(), status)).or_default() += 1;
    }

    fn sum(&self, keep: impl Fn(&str, i64, u16) -> bool) -> u64 {
        self.by.iter().filter(|((s, t, st), _)| keep(s, *t, *st)).map(|(_, n)| n).sum()
    }
}

/// Steady traffic: one thread per site and lane, one request at a time each.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Asks each site `per_second` times a second for `path`, from ever different clients.
    #[must_use]
    pub fn start(server: SocketAddr, sites: &[String], per_second: f64, path: &str) -> Self {
        Self::through(Volley::at(server), sites, per_second, path)
    }

    /// The same, and clients are named as the server wants it.
    #[must_use]
    pub fn through(volley: Volley, sites: &[String], per_second: f64, path: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let period = Duration::from_secs_f64(1.0 / per_second);
        let threads = sites
            .iter()
            .enumerate()
            .map(|(i, site)| {
                let (site, path) = (site.clone(), path.to_owned());
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
                // Sites start spread over one period, so that they do not ask in lockstep.
                let offset = period.mul_f64(i as f64 / sites.len() as f64);
                std::thread::spawn(move || {
                    pause(offset);
                    while !stop.load(Ordering::Relaxed) {
                        let started = clock::instant();
                        let status = volley.get(&site, &path);
                        seen.lock().unwrap_or_else(PoisonError::into_inner).record(&site, status);
                        pause(period.saturating_sub(started.elapsed()));
                    }
                })
            })
            .collect();
        Self { stop, seen, threads }
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops after the requests under way; every one of them is in the result.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.join();
        self.seen()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            assert!(thread.join().is_ok(), "a load thread panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One request, its status; 0 when no status line came back.
#[must_use]
pub fn get(server: SocketAddr, site: &str, path: &str) -> u16 {
    request(server, site, path).and_then(status).unwrap_or(0)
}

/// Sends a request and hangs up after `patience` without reading the answer.
pub fn get_and_hang_up(server: SocketAddr, site: &str, path: &str, patience: Duration) {
    let stream = request(server, site, path);
    pause(patience);
    drop(stream);
}

fn request(server: SocketAddr, site: &str, path: &str) -> std::io::Result<TcpStream> {
    send(server, "", site, path, &next_client())
}

fn next_client() -> String {
    static CLIENT: AtomicU64 = AtomicU64::new(0);
    let n = CLIENT.fetch_add(1, Ordering::Relaxed);
    format!("203.0.113.{}", n % 250 + 1)
}

/// Sends `preface` and a request that names its client in a header.
fn send(
    server: SocketAddr,
    preface: &str,
    site: &str,
    path: &str,
    client: &str,
) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let text = format!(
        "{preface}GET {path} HTTP/1.1\r\nHost: {site}\r\nX-Real-IP: {client}\r\n\
         User-Agent: load\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes())?;
    Ok(stream)
}

fn status(mut stream: TcpStream) -> std::io::Result<u16> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(status_of(&answer))
}

/// A known number of requests, each for a page of its own from a client of its own.
#[derive(Clone, Copy, Debug)]
pub struct Volley {
    server: SocketAddr,
    proxy_line: bool,
}

impl Volley {
    /// The client is named by `X-Real-IP`, for servers that trust it.
    #[must_use]
    pub fn at(server: SocketAddr) -> Self {
        Self { server, proxy_line: false }
    }

    /// The client is named by the PROXY protocol, for servers that want it.
    #[must_use]
    pub fn with_proxy_line(server: SocketAddr) -> Self {
        Self { server, proxy_line: true }
    }

    /// Asks every site as often as `plan` says, all sites at once, one request after the other for
    /// each; returns what came back.
    #[must_use]
    pub fn fire(&self, plan: &[(String, u64)]) -> Seen {
        let mut seen = Seen::default();
        let shooters = plan.iter().enumerate().map(|(ix, (site, n))| {
            let (site, n, volley) = (site.clone(), *n, *self);
            std::thread::spawn(move || {
                let mut seen = Seen::default();
                for shot in 0..n {
                    seen.record(&site, volley.one(&site, ix as u64, shot));
                }
                seen
            })
        });
        for shooter in shooters.collect::<Vec<_>>() {
            seen.add(shooter.join().expect("a request does not panic"));
        }
        seen
    }

    fn one(self, site: &str, ix: u64, shot: u64) -> u16 {
        let client = format!("203.0.{}.{}", 113 + ix, shot + 1);
        self.ask(site, &format!("/page/{ix}/{shot}"), &client, 40_000 + shot)
    }

    /// One request of a client that has not asked for a while; its status, 0 when no status line came
    /// back.
    #[must_use]
    pub fn get(self, site: &str, path: &str) -> u16 {
        self.ask(site, path, &next_client(), 40_000)
    }

    /// One request of this client; its status, 0 when no status line came back.
    pub(crate) fn ask(self, site: &str, path: &str, client: &str, port: u64) -> u16 {
        let preface = if self.proxy_line {
            format!("PROXY TCP4 {client} {} {port} 80\r\n", self.server.ip())
        } else {
            String::new()
        };
        send(self.server, &preface, site, path, client).and_then(status).unwrap_or(0)
    }
}

fn status_of(answer: &[u8]) -> u16 {
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line_only() {
        for (answer, status) in [
            ("HTTP/1.1 502 Bad Gateway\r\nX: HTTP/1.1 200 OK\r\n\r\n", 502),
            ("HTTP/1.1 200 OK\r\n\r\n", 200),
            ("", 0),
            ("garbage", 0),
        ] {
            assert_eq!(status_of(answer.as_bytes()), status, "{answer:?}");
        }
    }
}
