//! A small HTTP server on a loopback port, with faults on demand and a log of every request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(decoded)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sends the body in chunks, without a length.
    pub chunked: bool,
    /// Closes the connection after this many bytes of the body.
    pub cut_at: Option<usize>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.to_owned(), format!("{value}")));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    pub fn cut_at(mut self, count: usize) -> Self {
        self.cut_at = Some(count);
        self
    }
}

/// An answer given instead of the usual one, while `times` last. `None` in `reply` closes the connection unanswered.
struct Fault {
    method: String,
    path_part: String,
    times: usize,
    reply: Option<Reply>,
}

type Handler = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

struct Shared {
    handler: Handler,
    log: Mutex<Vec<Request>>,
    faults: Mutex<Vec<Fault>>,
    stopped: AtomicBool,
}

pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, faults) = Default::default();
        let shared = Arc::new(Shared { handler: Box::new(handler), log, faults, stopped: AtomicBool::new(false) });
        let accepted = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepted.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&accepted);
                thread::spawn(move || stream.map(|stream| serve(&shared, stream)));
            }
        });
        Self { address, shared }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Counts requests by method and a part of the target.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.method == method && request.target.contains(part)).count()
    }

    /// Answers the next `times` requests that match with `reply`; later calls come first.
    pub fn fault(&self, method: &str, path_part: &str, times: usize, reply: Reply) {
        self.push_fault(method, path_part, times, Some(reply));
    }

    /// Closes the connection of the next `times` requests that match.
    pub fn hang_up(&self, method: &str, path_part: &str, times: usize) {
        self.push_fault(method, path_part, times, None);
    }

    fn push_fault(&self, method: &str, path_part: &str, times: usize, reply: Option<Reply>) {
        let (method, path_part) = (method.to_owned(), path_part.to_owned());
        self.shared.faults.lock().unwrap().insert(0, Fault { method, path_part, times, reply });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader) {
        shared.log.lock().unwrap().push(request.clone());
        let fault = shared.faults.lock().unwrap().iter_mut().find_map(|fault| {
            let matches =
                fault.times > 0 && fault.method == request.method && request.target.contains(&fault.path_part);
            matches.then(|| {
                fault.times -= 1;
                fault.reply.clone()
            })
        });
        let reply = match fault {
            Some(Some(reply)) => reply,
            Some(None) => break,
            None => (shared.handler)(&request),
        };
        if write_reply(&mut writer, &request, &reply).is_none() {
            break;
        }
    }
    let _ = writer.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body })
}

/// Writes a reply; `None` when the connection ends with it.
fn write_reply(writer: &mut TcpStream, request: &Request, reply: &Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Test\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let has_length = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if reply.chunked {
        head += "transfer-encoding: chunked\r\n";
    } else if !has_length && reply.status != 204 {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    writer.write_all((head + "\r\n").as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    let body = &reply.body[..reply.cut_at.unwrap_or(reply.body.len()).min(reply.body.len())];
    if reply.chunked {
        for chunk in body.chunks(1000) {
            writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).ok()?;
            writer.write_all(chunk).ok()?;
            writer.write_all(b"\r\n").ok()?;
        }
        writer.write_all(b"0\r\n\r\n").ok()?;
    } else {
        writer.write_all(body).ok()?;
    }
    reply.cut_at.is_none().then_some(())
}
