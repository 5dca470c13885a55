//! Two calls of etcd's KV service, spelled out: HTTP/2, the five bytes before a gRPC message, and
//! the few protobuf fields that are needed.
//!
//! gRPC over HTTP/2: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
//! The messages: `rpc.proto` of etcd, PutRequest (1 key, 2 value) and RangeRequest (1 key).

use std::fmt;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallError {
    /// The connection, or HTTP/2 on it.
    Http(h2::Error),
    /// No gRPC server answers so.
    Status(StatusCode),
    /// What etcd says: `grpc-status` and `grpc-message`.
    Refused(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Http(error) => error.fmt(f),
            CallError::Status(status) => write!(f, "HTTP status {status}"),
            CallError::Refused(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for CallError {}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> CallError {
        CallError::Http(error)
    }
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    /// Connects. A task drives the connection until it ends.
    pub async fn open(endpoint: SocketAddr) -> Result<Connection, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        // An error shows in every call too.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, authority: endpoint.to_string() })
    }

    /// Stores a value.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<(), CallError> {
        self.call("/etcdserverpb.KV/Put", &[key, value]).await
    }

    /// Reads a value, linearizably.
    pub async fn get(&self, key: &[u8]) -> Result<(), CallError> {
        self.call("/etcdserverpb.KV/Range", &[key]).await
    }

    /// A call whose message has bytes in the fields 1, 2, ...
    async fn call(&self, path: &str, fields: &[&[u8]]) -> Result<(), CallError> {
        let request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("the parts are constants and an address");
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(message(fields), true)?;
        let (head, mut answer) = response.await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(CallError::Status(head.status));
        }
        while let Some(data) = answer.data().await {
            answer.flow_control().release_capacity(data?.len())?;
        }
        // A refusal without an answer has its status in the head.
        let trailers = answer.trailers().await?;
        status(trailers.as_ref().unwrap_or(&head.headers))
    }
}

fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("missing");
    match text("grpc-status") {
        "0" => Ok(()),
        code => Err(CallError::Refused(format!("grpc-status {code}: {}", text("grpc-message")))),
    }
}

/// Not compressed (a zero byte), the length, and the fields, each with wire type 2.
fn message(fields: &[&[u8]]) -> Bytes {
    let length: usize =
        fields.iter().map(|field| 1 + varint(field.len()).count() + field.len()).sum();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("keys and values are short"));
    for (number, field) in (1u8..).zip(fields) {
        bytes.put_u8(number << 3 | 2);
        varint(field.len()).for_each(|byte| bytes.put_u8(byte));
        bytes.put_slice(field);
    }
    bytes.freeze()
}

/// Seven bits a byte, the low ones first; all but the last have the top bit.
fn varint(number: usize) -> impl Iterator<Item = u8> {
    let mut rest = Some(number);
    std::iter::from_fn(move || {
        let number = rest?;
        let low = (number & 0x7f) as u8;
        rest = (number > 0x7f).then_some(number >> 7);
        Some(if rest.is_some() { low | 0x80 } else { low })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_framed_and_its_fields_are_numbered() {
        assert_eq!(message(&[b"k", b"vw"])[..], *b"\x00\x00\x00\x00\x07\x0a\x01k\x12\x02vw");
    }

    #[test]
    fn lengths_beyond_a_byte_are_varints() {
        assert_eq!(varint(0).collect::<Vec<_>>(), [0]);
        assert_eq!(varint(127).collect::<Vec<_>>(), [0x7f]);
        assert_eq!(varint(300).collect::<Vec<_>>(), [0xac, 0x02]);
    }
}
