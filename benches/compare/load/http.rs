//! As much of HTTP/1.1 as registries speak, on one connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Bytes of an answer that are read, and thrown away, at once.
const READ_BYTES: usize = 256 << 10;
/// A server that is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(170);

/// A connection that is kept for all requests of a client.
pub struct Connection {
    host: String,
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What is looked at of an answer.
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    /// Bytes of its body, which has been read.
    pub length: u64,
}

impl Connection {
    pub fn open(host: &str) -> Result<Connection> {
        let stream = TcpStream::connect(host).with_context(|| format!("cannot connect to {host}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { host: host.to_string(), stream, buffer: vec![0; READ_BYTES] })
    }

    /// Sends a request whose body is so many bytes, written by `body`, and reads the answer to its end.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        more: &str,
        length: Option<u64>,
        body: impl FnOnce(&mut TcpStream) -> std::io::Result<()>,
    ) -> Result<Answer> {
        let length = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{length}{more}\r\n", self.host);
        self.stream.write_all(head.as_bytes())?;
        body(&mut self.stream)?;
        self.answer(method == "HEAD").with_context(|| format!("{method} {path}"))
    }

    pub fn ask(&mut self, method: &str, path: &str, more: &str) -> Result<Answer> {
        self.send(method, path, more, None, |_| Ok(()))
    }

    fn answer(&mut self, head_only: bool) -> Result<Answer> {
        let mut filled = 0;
        let end = loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                bail!("connection was closed");
            }
            let from = filled.saturating_sub(3);
            filled += read;
            let found = self.buffer[from..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(found) = found {
                break from + found + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end])?;
        let status = head.get(9..12).context("no status")?.parse()?;
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_string())
        };
        let location = field("location");
        let length: u64 = match field("content-length") {
            Some(length) => length.parse()?,
            None => 0,
        };
        if head_only {
            return Ok(Answer { status, location, length });
        }
        let mut left = length.saturating_sub((filled - end) as u64);
        while left > 0 {
            let most = READ_BYTES.min(left as usize);
            match self.stream.read(&mut self.buffer[..most])? {
                0 => bail!("answer was cut, {left} of {length} bytes missing"),
                read => left -= read as u64,
            }
        }
        Ok(Answer { status, location, length })
    }
}
