//! Stands between agent and collector and counts the bytes that pass, in both directions.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use harness::loopback;

/// Ends with the program: it waits for connections that nobody makes any more.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    n_bytes: Arc<AtomicU64>,
}

impl Relay {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let address = loopback(8502);
        let listener = TcpListener::bind(address).expect("the address is ours");
        let n_bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&n_bytes);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                let (Ok(near_2), Ok(far_2)) = (near.try_clone(), far.try_clone()) else { continue };
                let (up, down) = (Arc::clone(&counted), Arc::clone(&counted));
                thread::spawn(move || copy(near, far, &up));
                thread::spawn(move || copy(far_2, near_2, &down));
            }
        });
        Self { address, n_bytes }
    }

    /// Bytes of TCP payload so far: TLS, HTTP/2 and all that is in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, n_bytes: &AtomicU64) {
    to.set_nodelay(true).ok(); // only a matter of speed
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        n_bytes.fetch_add(n as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Both).ok(); // an error means that it is closed
}
