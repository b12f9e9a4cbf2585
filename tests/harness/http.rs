//! A client of HTTP/1.1: a connection a request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// A body to send.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as far as it came.
    pub body: Bytes,
    /// False if the body broke off.
    pub complete: bool,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The code of an error of the platform.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request whose body may still be on its way when the answer begins.
pub async fn begin(address: &str, request: Request<Body>) -> Result<Response<Incoming>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// Sends a request and reads the answer, within a time.
pub async fn try_send(address: &str, request: Request<Body>, within: Duration) -> Result<Answer, String> {
    let whole = async {
        let response = begin(address, request).await?;
        let (parts, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        let mut complete = true;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                Err(_broken) => complete = false,
            }
        }
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes.into(), complete })
    };
    timeout(within, whole).await.map_err(|elapsed| elapsed.to_string())?
}

/// Sends a request and reads the answer.
pub async fn send(address: &str, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
    try_send(address, request(address, method, path, body), PATIENCE).await.unwrap()
}

/// GET.
pub async fn get(address: &str, path: &str) -> Answer {
    send(address, Method::GET, path, "").await
}

/// A request with a body that is there.
pub fn request(address: &str, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Request::builder().method(method).uri(path).header("host", address).body(body).unwrap()
}
