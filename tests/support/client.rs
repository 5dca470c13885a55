//! Sockets for tests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// A connection for bytes of any kind.
pub struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    pub fn connect(address: &str) -> Raw {
        let stream = TcpStream::connect(address).expect("the server accepts connections");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("an option can be set");
        Raw { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Sends what the server may refuse to read to its end; false when the connection is broken.
    pub fn send_if_possible(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = self.stream.get_mut().shutdown(Shutdown::Write);
    }

    /// The next line without its end; `None` when the server has closed the connection.
    pub fn line_bytes(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => {
                assert_eq!(line.pop(), Some(b'\n'), "half a line: {line:?}");
                Some(line)
            }
            // A server that closes while bytes are on their way to it resets the connection.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line: {error}"),
        }
    }

    pub fn line(&mut self) -> Option<String> {
        self.line_bytes().map(|line| String::from_utf8(line).expect("replies are UTF-8 here"))
    }

    /// All that comes until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest,
            Err(error) => panic!("the server does not close the connection: {error}"),
        }
    }

    /// Exactly so many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// Whether a reply is there already, without waiting for one.
    pub fn has_reply(&mut self) -> bool {
        if !self.stream.buffer().is_empty() {
            return true;
        }
        let socket = self.stream.get_ref();
        socket.set_nonblocking(true).expect("an option can be set");
        let ready = socket.peek(&mut [0]).is_ok();
        socket.set_nonblocking(false).expect("an option can be set");
        ready
    }

    /// Whether anything comes, the end included, before this time is over.
    pub fn hears_within(&mut self, time: Duration) -> bool {
        if !self.stream.buffer().is_empty() {
            return true;
        }
        let socket = self.stream.get_ref();
        socket.set_read_timeout(Some(time)).expect("a timeout can be set");
        let ready = socket.peek(&mut [0]).is_ok();
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        ready
    }
}

/// A connection that speaks the text protocol as a person does.
pub struct Text {
    raw: Raw,
}

impl Text {
    pub fn connect(address: &str) -> Text {
        Text { raw: Raw::connect(address) }
    }

    /// Sends one line and waits for its reply.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.reply()
    }

    /// Sends one line.
    pub fn send(&mut self, line: &str) {
        self.raw.send(format!("{line}\n").as_bytes());
    }

    pub fn reply(&mut self) -> String {
        self.raw.line().expect("the server keeps the connection")
    }

    /// The bytes below.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }
}
