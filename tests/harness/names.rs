//! A name server of a test, and programs that ask it and no other.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::find_program;
use crate::root::{Root, loopback};

type Zone = Arc<Mutex<BTreeMap<String, Ipv4Addr>>>;

/// The server; it stops in `Drop`.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    zone: Zone,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts one that knows no name yet, at port 53 of a loopback address of its own. Needs root.
    #[must_use]
    pub fn start() -> Self {
        let address = loopback(53);
        let socket = UdpSocket::bind(address).expect("nobody else has the address");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a fresh socket");
        let (zone, stop) = (Zone::default(), Arc::new(AtomicBool::new(false)));
        let (known, stopped) = (Arc::clone(&zone), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                // An error is the timeout.
                let Ok((n, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = answer(&question[..n], &known.lock().expect("no panic")) {
                    socket.send_to(&answer, from).ok(); // who asks may have left
                }
            }
        });
        Self { address, zone, stop, thread: Some(thread) }
    }

    /// From now on a name has this address.
    pub fn set(&self, name: &str, address: Ipv4Addr) {
        self.zone.lock().expect("no panic").insert(name.to_owned(), address);
    }

    /// Stops to answer: whoever asks is told at once that nobody is there.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok(); // it panics only in a test that has failed already
        }
    }

    /// Words before a program that make it ask this server, in a mount namespace of its own.
    #[must_use]
    pub fn wrapper(&self, root: &Root) -> Vec<String> {
        let text = format!("nameserver {}\noptions timeout:1 attempts:1\n", self.address.ip());
        let file = root.write("srv/resolv.conf", &text);
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let unshare = find_program(&["unshare"], "util-linux").display().to_string();
        let words = ["--mount", "--propagation", "private", "sh", "-c", script];
        let words = words.iter().map(|word| (*word).to_owned());
        std::iter::once(unshare).chain(words).chain([file.display().to_string()]).collect()
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The answer to one question: an address, none of that kind, or that there is no such name.
fn answer(question: &[u8], zone: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let mut rest = question.get(12..)?;
    let mut labels = Vec::new();
    loop {
        let (n, after) = rest.split_first()?;
        let (label, after) = after.split_at_checked(usize::from(*n))?;
        rest = after;
        if label.is_empty() {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
    }
    let [_, kind, _, _, ..] = rest else { return None };
    let asked = &question[12..question.len() - rest.len() + 4];
    let found = zone.get(&labels.join("."));
    let address = found.filter(|_| *kind == 1);
    let code = if found.is_some() { 0x80 } else { 0x83 };
    let mut out = question[..2].to_vec();
    out.extend([0x81, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    out.extend_from_slice(asked);
    if let Some(address) = address {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}
