//! As much of HTTP as asking a local server takes.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

const LIMIT: Duration = Duration::from_secs(30);

/// The body of `GET path` at `address` (`HOST:PORT`).
///
/// # Errors
/// When the server does not answer, or not with 200.
pub fn get(address: &str, path: &str) -> Result<String> {
    ask(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
        .with_context(|| format!("GET http://{address}{path}"))
}

/// The answer's body to `POST path` with a JSON body.
///
/// # Errors
/// When the server does not answer, or not with 200.
pub fn post_json(address: &str, path: &str, body: &str) -> Result<String> {
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    ask(address, &(head + body)).with_context(|| format!("POST http://{address}{path}"))
}

/// HTTP/1.0: the body is what follows the head until the server closes, never chunked.
fn ask(address: &str, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("not an HTTP answer: {answer:?}"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("answered {status}: {body}");
    }
    Ok(body.to_owned())
}

/// One connection, on which requests go out one after the other.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: BufReader<TcpStream>,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body of an answer with a status of 200 to 299.
    ///
    /// # Errors
    /// When it has another.
    pub fn good(self) -> Result<String> {
        if !(200..300).contains(&self.status) {
            bail!("answered {}: {}", self.status, self.body);
        }
        Ok(self.body)
    }
}

impl Connection {
    /// Connects to `address` (`HOST:PORT`).
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn open(address: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { address: address.to_owned(), stream: BufReader::new(stream) })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask("GET", path, "", b"")
    }

    /// `POST path` with a body, and with `headers`, each a line that ends with CRLF.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> Result<Answer> {
        self.ask("POST", path, headers, body)
    }

    fn ask(&mut self, verb: &str, path: &str, headers: &str, body: &[u8]) -> Result<Answer> {
        let mut request = format!(
            "{verb} {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend(body);
        let sent = self.stream.get_mut().write_all(&request).map_err(Into::into);
        sent.and_then(|()| read_answer(&mut self.stream))
            .with_context(|| format!("{verb} http://{}{path}", self.address))
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<Answer> {
    let status = line(stream)?;
    let status = status
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| anyhow!("not an HTTP answer: {status:?}"))?;
    let mut length = 0;
    let mut chunked = false;
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse()?,
            Some(("transfer-encoding", "chunked")) => chunked = true,
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        append(stream, length, &mut body)?;
    }
    while chunked {
        let size = usize::from_str_radix(&line(stream)?, 16)?;
        append(stream, size, &mut body)?;
        line(stream)?;
        chunked = size > 0;
    }
    Ok(Answer { status, body: String::from_utf8(body)? })
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("the server closed the connection");
    }
    Ok(line.trim_end().to_owned())
}

fn append(stream: &mut BufReader<TcpStream>, length: usize, body: &mut Vec<u8>) -> Result<()> {
    let before = body.len();
    body.resize(before + length, 0);
    Ok(stream.read_exact(&mut body[before..])?)
}

/// Text as a value in a query string.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
