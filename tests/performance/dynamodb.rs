//! A connection of a DynamoDB client that does no more than it must: it shares the processors with what is measured.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection that is kept.
pub(crate) struct Line {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Line {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, request: Vec::new(), answer: vec![0; 16 << 10] }
    }

    /// Has an operation carried out; the body of its answer, which must be none of an error.
    pub(crate) async fn ask(&mut self, operation: &str, body: &str) -> &[u8] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(&head, body).await
    }

    /// Asks whether the node is well: what a request costs that does nothing.
    pub(crate) async fn health(&mut self) {
        self.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "").await;
    }

    async fn send(&mut self, head: &str, body: &str) -> &[u8] {
        self.request.clear();
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(body.as_bytes());
        self.stream.write_all(&self.request).await.unwrap();
        let mut read = 0;
        loop {
            if read == self.answer.len() {
                self.answer.resize(read * 2, 0);
            }
            let came = self.stream.read(&mut self.answer[read..]).await.unwrap();
            assert!(came > 0, "the node closed the connection");
            read += came;
            let Some(begins) = self.answer[..read].windows(4).position(|end| end == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.answer[..begins]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let ends = begins + 4 + length.unwrap().parse::<usize>().unwrap();
            if read >= ends {
                let body = &self.answer[begins + 4..ends];
                assert!(head.starts_with("http/1.1 200"), "{head}\n{}", String::from_utf8_lossy(body));
                return body;
            }
        }
    }
}
