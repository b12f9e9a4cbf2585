//! A component that does what a test asks it to. `probe.py` is the same as a process.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::OutputStream;

use trimaran::data::database::{self, Placeholders, ReturnValues, Value, WriteOptions};
use trimaran::data::errors::Error;
use trimaran::data::grid;

wit_bindgen::generate!({ path: "../../../crates/wasm-host/wit", world: "data", generate_all });

static REQUESTS: AtomicU32 = AtomicU32::new(0);

struct Probe;

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let number = |text: &str| text.parse::<u64>().unwrap_or_default();
        let requests = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        match parts.as_slice() {
            [] => respond(out, 200, &[], |body| write(body, b"hello\n")),
            ["request"] => {
                let mut text = format!("{} {path} {query}\n", method(&request));
                for (name, value) in request.headers().entries() {
                    text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
                }
                respond(out, 200, &[], |body| write(body, text.as_bytes()));
            }
            ["echo"] => echo(&request, out),
            ["environment"] => {
                let text: String = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
                respond(out, 200, &[], |body| write(body, text.as_bytes()));
            }
            ["log"] => {
                println!("to stdout");
                eprintln!("to stderr");
                print!("without an end");
                let _ = std::io::stdout().flush();
                respond(out, 204, &[], |_| {});
            }
            ["status", status] => {
                let headers = [("x-probe", "first"), ("x-probe", "second")];
                respond(out, number(status) as u16, &headers, |_| {});
            }
            ["loop"] => loop {
                std::hint::spin_loop();
            },
            ["sleep", ms] => {
                std::thread::sleep(Duration::from_millis(number(ms)));
                respond(out, 200, &[], |body| write(body, b"slept\n"));
            }
            ["memory", bytes] => {
                let taken = vec![1_u8; number(bytes) as usize];
                let sum: u64 = taken.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
                respond(out, 200, &[], |body| write(body, format!("{sum}\n").as_bytes()));
            }
            ["crash"] => panic!("asked to"),
            ["begin-and-crash"] => respond(out, 200, &[], |body| {
                write(body, b"begun\n");
                panic!("asked to");
            }),
            ["begin-and-loop"] => respond(out, 200, &[], |body| {
                write(body, b"begun\n");
                loop {
                    std::hint::spin_loop();
                }
            }),
            ["chunks", count] => respond(out, 200, &[], |body| {
                for chunk in 0..number(count) {
                    write(body, format!("{chunk}\n").as_bytes());
                }
            }),
            ["requests"] => respond(out, 200, &[], |body| write(body, format!("{requests}\n").as_bytes())),
            ["registers" | "counters", ..] => {
                let method = method(&request);
                let body = String::from_utf8_lossy(&read(&request)).into_owned();
                let (status, text) = match data(&method, &parts, &body) {
                    Ok(Some(text)) => (200, text),
                    Ok(None) => (404, String::new()),
                    Err(error) => (503, format!("{error:?}")),
                };
                respond(out, status, &[], |stream| write(stream, text.as_bytes()));
            }
            ["outside"] => {
                let outgoing = OutgoingRequest::new(Fields::new());
                let _ = outgoing.set_scheme(Some(&Scheme::Http));
                let _ = outgoing.set_authority(Some(query));
                let _ = outgoing.set_path_with_query(Some("/"));
                let outcome = outgoing_handler::handle(outgoing, None).map(|response| {
                    response.subscribe().block();
                    response.get().and_then(Result::ok).map(|response| response.map(|response| response.status()))
                });
                respond(out, 200, &[], |body| write(body, format!("{outcome:?}\n").as_bytes()));
            }
            _ => respond(out, 404, &[], |body| write(body, b"nothing is here\n")),
        }
    }
}

fn method(request: &IncomingRequest) -> String {
    use wasip2::http::types::Method;
    match request.method() {
        Method::Other(other) => other,
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    }
}

fn respond(out: ResponseOutparam, status: u16, headers: &[(&str, &str)], write: impl FnOnce(&OutputStream)) {
    let fields = Fields::new();
    for (name, value) in headers {
        let _ = fields.append(name, value.as_bytes());
    }
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(out, Ok(response));
    if let Ok(stream) = body.write() {
        write(&stream);
    }
    let _ = OutgoingBody::finish(body, None);
}

fn write(stream: &OutputStream, bytes: &[u8]) {
    for piece in bytes.chunks(4096) {
        let _ = stream.blocking_write_and_flush(piece);
    }
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume() {
        if let Ok(stream) = body.stream() {
            while let Ok(chunk) = stream.blocking_read(4096) {
                bytes.extend(chunk);
            }
        }
    }
    bytes
}

/// Registers in the table "registers" of the database, counters in the grid.
fn data(method: &str, parts: &[&str], body: &str) -> Result<Option<String>, Error> {
    let id = |id: &str| ("id".to_owned(), Value::Text(id.to_owned()));
    match (method, parts) {
        ("PUT", ["registers", key]) => {
            let item = vec![id(key), ("value".to_owned(), Value::Number(body.to_owned()))];
            let options = WriteOptions {
                condition: String::new(),
                placeholders: Placeholders { names: Vec::new(), values: Vec::new() },
                return_values: ReturnValues::None,
            };
            database::put_item("registers", &item, &options)?;
            Ok(Some(String::new()))
        }
        ("GET", ["registers", key]) => {
            let item = database::get_item("registers", &vec![id(key)])?;
            Ok(item.into_iter().flatten().find_map(|(_, value)| match value {
                Value::Number(number) => Some(number),
                _ => None,
            }))
        }
        ("POST", ["counters", key]) => {
            let by = body.parse().map_err(|_| Error::Invalid("no number".to_owned()))?;
            grid::increment(&format!("counter:{key}"), by).map(|sum| Some(sum.to_string()))
        }
        _ => Ok(None),
    }
}

/// Answers each piece of the body as it comes.
fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let (Ok(incoming), headers) = (request.consume(), request.headers()) else { return };
    let kind = headers.get("content-type").into_iter().next();
    let kind = kind.map_or_else(String::new, |kind| String::from_utf8_lossy(&kind).into_owned());
    respond(out, 200, &[("content-type", &kind)], |body| {
        if let Ok(stream) = incoming.stream() {
            while let Ok(chunk) = stream.blocking_read(4096) {
                write(body, &chunk);
            }
        }
    });
    let _ = IncomingBody::finish(incoming);
}

wasip2::http::proxy::export!(Probe);
