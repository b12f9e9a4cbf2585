//! A link shortener: links in the database, hot links and click counters in the grid.
//!
//! ```text
//! POST   /               a URL in the body        201 {"code": …}, the same for the same URL
//! PUT    /<code>         a URL in the body        201, or 409 if the code leads elsewhere
//! GET    /<code>                                  302 to the URL, and one click more
//! GET    /<code>/clicks                           200 {"code": …, "target": …, "clicks": …}
//! DELETE /<code>                                  204
//! ```
//!
//! The same application as a process: `../process/main.py`.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use trimaran::data::database::{
    self, Item, KeyType, Placeholders, ReturnValues, Table, Value, WriteOptions,
};
use trimaran::data::errors::Error;
use trimaran::data::grid::{self, Condition};

wit_bindgen::generate!({ path: "../../../crates/wasm-host/wit", world: "data", generate_all });

const TABLE: &str = "links";

/// Longest URL, bytes; longest code, characters.
const TARGET_MAX: usize = 2048;
const CODE_MAX: usize = 64;

/// How long a link that was followed is kept in the grid, milliseconds.
const HOT_MS: u64 = 60_000;

/// Letters and digits of a generated code.
const CODE_LETTERS: usize = 7;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

struct Answer {
    status: u16,
    location: Option<String>,
    json: String,
}

impl Answer {
    fn json(status: u16, json: String) -> Self {
        Self { status, location: None, json }
    }

    fn error(status: u16, text: &str) -> Self {
        Self::json(status, format!("{{\"error\": {}}}", quoted(text)))
    }
}

fn answer(method: &Method, path: &str, body: &str) -> Result<Answer, Error> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method, parts.as_slice()) {
        (Method::Get, []) => Ok(Answer::json(200, "{\"usage\": \"POST / with a URL, then GET /<code>\"}".to_owned())),
        (Method::Post, []) => {
            let Some(target) = target(body) else { return Ok(bad_target()) };
            // Two URLs may have one code: then the next one is tried.
            let mut salt = 0;
            loop {
                let code = generated(target, salt);
                if store(&code, target)? {
                    return Ok(Answer::json(201, format!("{{\"code\": {}}}", quoted(&code))));
                }
                salt += 1;
            }
        }
        (_, [code, ..]) if !is_code(code) => Ok(Answer::error(400, "a code has 1 to 64 letters, digits, _ and -")),
        (Method::Put, [code]) => {
            let Some(target) = target(body) else { return Ok(bad_target()) };
            if store(code, target)? {
                Ok(Answer::json(201, format!("{{\"code\": {}}}", quoted(code))))
            } else {
                Ok(Answer::error(409, "the code leads elsewhere"))
            }
        }
        (Method::Get, [code]) => {
            let Some(target) = follow(code)? else { return Ok(Answer::error(404, "no such link")) };
            grid::increment(&format!("clicks:{code}"), 1)?;
            println!("{code} -> {target}");
            Ok(Answer { status: 302, location: Some(target), json: String::new() })
        }
        (Method::Get, [code, "clicks"]) => {
            let Some(target) = follow(code)? else { return Ok(Answer::error(404, "no such link")) };
            let clicks = grid::increment(&format!("clicks:{code}"), 0)?;
            let (code, target) = (quoted(code), quoted(&target));
            Ok(Answer::json(200, format!("{{\"code\": {code}, \"target\": {target}, \"clicks\": {clicks}}}")))
        }
        (Method::Delete, [code]) => {
            let options = WriteOptions { return_values: ReturnValues::AllOld, ..no_options() };
            let removed = database::delete_item(TABLE, &key(code), &options);
            let removed = table_made(removed)?.flatten();
            grid::delete(&format!("link:{code}"))?;
            grid::delete(&format!("clicks:{code}"))?;
            Ok(match removed {
                Some(_) => Answer::json(204, String::new()),
                None => Answer::error(404, "no such link"),
            })
        }
        _ => Ok(Answer::error(404, "nothing is here")),
    }
}

/// Keeps a link; false if the code leads elsewhere.
fn store(code: &str, target: &str) -> Result<bool, Error> {
    let item: Item = vec![
        ("code".to_owned(), Value::Text(code.to_owned())),
        ("target".to_owned(), Value::Text(target.to_owned())),
    ];
    let options = WriteOptions {
        condition: "attribute_not_exists(code) OR target = :target".to_owned(),
        placeholders: Placeholders {
            names: Vec::new(),
            values: vec![(":target".to_owned(), Value::Text(target.to_owned()))],
        },
        return_values: ReturnValues::None,
    };
    match table_made(database::put_item(TABLE, &item, &options)) {
        // The table was not there: it is now.
        Ok(None) => store(code, target),
        Ok(Some(_)) => Ok(true),
        Err(Error::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a code leads: the grid knows links that were followed lately, the database all of them.
fn follow(code: &str) -> Result<Option<String>, Error> {
    let hot = format!("link:{code}");
    if let Some(entry) = grid::get(&hot)? {
        return Ok(Some(String::from_utf8_lossy(&entry.value).into_owned()));
    }
    let found = table_made(database::get_item(TABLE, &key(code)))?.flatten();
    let target = found.and_then(|item| {
        item.into_iter().find_map(|(name, value)| match value {
            Value::Text(target) if name == "target" => Some(target),
            _ => None,
        })
    });
    if let Some(target) = &target {
        grid::set(&hot, target.as_bytes(), Some(HOT_MS), Condition::Always)?;
    }
    Ok(target)
}

/// Makes the table if it is not there; then there is no result.
fn table_made<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(Error::NotFound(_)) => {
            let table = Table {
                name: TABLE.to_owned(),
                partition_key: ("code".to_owned(), KeyType::Text),
                sort_key: None,
            };
            match database::create_table(&table) {
                // Another request was faster.
                Ok(()) | Err(Error::Conflict(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn key(code: &str) -> Item {
    vec![("code".to_owned(), Value::Text(code.to_owned()))]
}

fn no_options() -> WriteOptions {
    WriteOptions {
        condition: String::new(),
        placeholders: Placeholders { names: Vec::new(), values: Vec::new() },
        return_values: ReturnValues::None,
    }
}

fn target(body: &str) -> Option<&str> {
    let target = body.trim();
    let is_url = target.starts_with("http://") || target.starts_with("https://");
    let is_plain = target.bytes().all(|byte| byte.is_ascii_graphic());
    (is_url && is_plain && target.len() <= TARGET_MAX).then_some(target)
}

fn bad_target() -> Answer {
    Answer::error(400, "the body has to be a URL, http:// or https://, of 2,048 bytes at most")
}

fn is_code(code: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    code.len() <= CODE_MAX && code.bytes().all(is_letter)
}

/// FNV-1a of the URL, in letters and digits.
fn generated(target: &str, salt: u8) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in target.bytes().chain((salt > 0).then_some(salt)) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut code = String::new();
    for _ in 0..CODE_LETTERS {
        code.push(char::from(ALPHABET[(hash % 62) as usize]));
        hash /= 62;
    }
    code
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if u32::from(control) < 0x20 => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

struct Shortener;

impl Guest for Shortener {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let answered = match read(&request) {
            Some(body) => answer(&request.method(), path, &body),
            None => Ok(bad_target()),
        };
        let answer = answered.unwrap_or_else(|error| {
            eprintln!("{error:?}");
            Answer::error(503, "the data cannot be reached now")
        });
        let headers = Fields::new();
        let set = |name: &str, value: &str| {
            // A URL was checked to be a header value; the others are ours.
            let _ = headers.set(name, &[value.as_bytes().to_vec()]);
        };
        set("content-type", "application/json");
        set("content-length", &answer.json.len().to_string());
        if let Some(location) = &answer.location {
            set("location", location);
        }
        let response = OutgoingResponse::new(headers);
        let _ = response.set_status_code(answer.status);
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        if !answer.json.is_empty() {
            if let Ok(stream) = body.write() {
                let _ = stream.blocking_write_and_flush(answer.json.as_bytes());
            }
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

/// The body; nothing if it is longer than a URL may be, or no text.
fn read(request: &IncomingRequest) -> Option<String> {
    let body = request.consume().ok()?;
    let stream = body.stream().ok()?;
    let mut bytes = Vec::new();
    while let Ok(chunk) = stream.blocking_read(4096) {
        bytes.extend(chunk);
        if bytes.len() > TARGET_MAX + 16 {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}

wasip2::http::proxy::export!(Shortener);
