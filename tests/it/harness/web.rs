//! Web: a site on a loopback address that answers with what a test says.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Status and body of the pages by their path; others are 404.
type Pages = HashMap<String, (u16, Vec<u8>)>;

/// A web server that ends with its test.
pub struct Site {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Serves `pages`.
    pub fn serve(pages: &[(&str, u16, &[u8])]) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let pages = pages.iter().map(|(path, status, body)| ((*path).to_owned(), (*status, body.to_vec())));
        let pages: Pages = pages.collect();
        let mut site = Site {
            address: listener.local_addr().expect("its address"),
            requests: Arc::default(),
            stopped: Arc::default(),
            thread: None,
        };
        let (requests, stopped) = (site.requests.clone(), site.stopped.clone());
        site.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A client that goes away is its own affair.
                let _ = answer(stream, &pages, &requests);
            }
        }));
        site
    }

    /// The address of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked for so far: method, path and headers of each request.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("the requests").clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, pages: &Pages, requests: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.take(64 * 1024));
    let mut request = String::new();
    while reader.read_line(&mut request)? > 2 {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    requests.lock().expect("the requests").push(request);
    let (status, body) = pages.get(&path).cloned().unwrap_or((404, b"not here".to_vec()));
    let mut stream = reader.into_inner().into_inner();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}
