//! A network cable between agents and their collector that a test can cut, in one direction or both.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::root::loopback;

/// Carries connections to the target while it is whole. Its threads end with the program.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// New connections are closed at once.
    is_cut: AtomicBool,
    /// What comes back from the target goes nowhere: acks are lost.
    is_deaf: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Cable {
    /// Lays a cable to `target`.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        let address = loopback(8502);
        let listener = TcpListener::bind(address).expect("the address is ours");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if shared.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                carry(&shared, &near, &far);
            }
        });
        Self { address, state }
    }

    /// This end of it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on batches arrive and acks do not.
    pub fn deafen(&self) {
        self.state.is_deaf.store(true, Ordering::SeqCst);
    }

    /// Ends every connection wherever it is, and takes no new one.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        for stream in self.open().drain(..) {
            stream.shutdown(Shutdown::Both).ok(); // an error means that it is closed
        }
    }

    /// Whole again, in both directions.
    pub fn mend(&self) {
        self.state.is_deaf.store(false, Ordering::SeqCst);
        self.state.is_cut.store(false, Ordering::SeqCst);
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.state.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn carry(state: &Arc<State>, near: &TcpStream, far: &TcpStream) {
    let copy_of = |stream: &TcpStream| stream.try_clone().expect("a handle can be duplicated");
    let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
    open.extend([copy_of(near), copy_of(far)]);
    for (mut from, mut to, is_back) in
        [(copy_of(near), copy_of(far), false), (copy_of(far), copy_of(near), true)]
    {
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let is_lost = is_back && state.is_deaf.load(Ordering::SeqCst);
                if !is_lost && to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            to.shutdown(Shutdown::Both).ok(); // an error means that it is closed
        });
    }
}
