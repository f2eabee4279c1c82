//! As much of HTTP as asking a local server takes.

use std::io::{Read as _, Write as _};
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
