//! Recorder: passes connections on and keeps every byte of them, as somebody who listens on the network does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one who passes bytes on waits at most before it looks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(100);

/// What one connection has carried so far.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub to_worker: Vec<u8>,
    pub from_worker: Vec<u8>,
}

#[derive(Default)]
struct Tape {
    connections: Mutex<Vec<Recorded>>,
    is_over: AtomicBool,
}

/// Listens between a worker and all who reach it here.
pub struct Recorder {
    pub address: SocketAddr,
    tape: Arc<Tape>,
    threads: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Listens on a port of its own on loopback, and passes on to `worker`.
    pub fn before(worker: SocketAddr) -> Recorder {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let tape = Arc::new(Tape::default());
        let to = tape.clone();
        let threads = std::thread::spawn(move || accept_all(&listener, worker, &to));
        Recorder { address, tape, threads: Some(threads) }
    }

    /// What the connections have carried so far, in the order in which they came.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.tape.connections().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tape.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(threads) = self.threads.take() {
            let _ = threads.join();
        }
    }
}

impl Tape {
    fn connections(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

fn accept_all(listener: &TcpListener, worker: SocketAddr, tape: &Tape) {
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            if tape.is_over() {
                return;
            }
            let (Ok(caller), Ok(worker)) = (stream, TcpStream::connect(worker)) else { continue };
            let index = {
                let mut connections = tape.connections();
                connections.push(Recorded::default());
                connections.len() - 1
            };
            let ends = [caller.try_clone().and_then(|c| Ok((c, worker.try_clone()?))), Ok((worker, caller))];
            for (direction, end) in ends.into_iter().enumerate() {
                let (from, to) = end.expect("a descriptor is free");
                scope.spawn(move || {
                    pass_on(&from, &to, tape, |bytes| {
                        let recorded = &mut tape.connections()[index];
                        let into = [&mut recorded.to_worker, &mut recorded.from_worker];
                        into[direction].extend_from_slice(bytes);
                    });
                });
            }
        }
    });
}

/// Passes bytes on, each of which is kept first.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream, tape: &Tape, mut keep: impl FnMut(&[u8])) {
    from.set_read_timeout(Some(LOOK_UP)).expect("a time-out");
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                keep(&buffer[..length]);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) =>
            {
                if tape.is_over() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
