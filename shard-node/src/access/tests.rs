//! Signatures that are right, and those that are right for something else.

use http::Request;
use rustack_auth::sigv4::{build_string_to_sign, compute_signature, derive_signing_key};

use super::*;

const NOW_MS: u64 = 1_795_768_200_000;
const DATE: &str = "20261127T083000Z";
const ID: &str = "TMRNAAAAAAAAAAAAAAAA";
const SECRET: &str = "0123456789012345678901234567890123456789";
const BODY: &[u8] = b"{\"TableName\":\"t\"}";

fn keys() -> AccessKeys {
    let key = AccessKey {
        id: ID.to_owned(),
        secret: SECRET.to_owned(),
        note: String::new(),
        created_ms: 1,
        revision: 1,
    };
    AccessKeys(BTreeMap::from([(ID.to_owned(), key)]))
}

struct Signing<'a> {
    id: &'a str,
    secret: &'a str,
    date: &'a str,
    service: &'a str,
    signed: &'a [&'a str],
}

const RIGHT: Signing<'static> = Signing {
    id: ID,
    secret: SECRET,
    date: DATE,
    service: "dynamodb",
    signed: &["host", "x-amz-date", "x-amz-target"],
};

fn header<'a>(name: &str, date: &'a str) -> &'a str {
    match name {
        "host" => "localhost:8000",
        "x-amz-date" => date,
        _ => "DynamoDB_20120810.GetItem",
    }
}

fn signed(signing: &Signing<'_>) -> Parts {
    let Signing { id, secret, date, service, signed } = signing;
    let hash =
        |text: &[u8]| -> String { Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect() };
    let lines: String = signed.iter().map(|name| format!("{name}:{}\n", header(name, date))).collect();
    let names = signed.join(";");
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hash(BODY));
    let scope = format!("{}/local/{service}/aws4_request", &date[..8]);
    let to_sign = build_string_to_sign(date, &scope, &hash(canonical.as_bytes()));
    let key = derive_signing_key(secret, &date[..8], "local", service).unwrap();
    let signature = compute_signature(&key, &to_sign).unwrap();
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
    let mut request = Request::post("/").header("authorization", authorization);
    for name in ["host", "x-amz-date", "x-amz-target"] {
        request = request.header(name, header(name, date));
    }
    request.body(()).unwrap().into_parts().0
}

fn outcome(parts: &Parts, body: &[u8]) -> Result<(), Refused> {
    check(&keys(), parts, body, NOW_MS)
}

#[test]
fn a_signature_is_good_for_the_request_that_it_was_made_for() {
    let parts = signed(&RIGHT);
    assert_eq!(outcome(&parts, BODY), Ok(()));
    assert!(matches!(outcome(&parts, b"{}"), Err(Refused::Invalid(_))));
    let mut other = parts.clone();
    other.headers.insert("x-amz-target", "DynamoDB_20120810.DeleteTable".parse().unwrap());
    assert!(matches!(outcome(&other, BODY), Err(Refused::Invalid(_))));
    // A header that decides on something and was not signed.
    let mut more = parts.clone();
    more.headers.insert("x-amz-security-token", "x".parse().unwrap());
    assert!(matches!(outcome(&more, BODY), Err(Refused::Incomplete(_))));
    let mut none = parts;
    none.headers.remove("authorization");
    assert_eq!(outcome(&none, BODY), Err(Refused::Missing));
}

#[test]
fn a_signature_covers_what_decides_on_a_request_and_is_of_now_and_for_this() {
    let refused = |signing: &Signing<'_>| outcome(&signed(signing), BODY).unwrap_err();
    let without_target = Signing { signed: &["host", "x-amz-date"], ..RIGHT };
    assert!(matches!(refused(&without_target), Refused::Incomplete(_)));
    let without_host = Signing { signed: &["x-amz-date", "x-amz-target"], ..RIGHT };
    assert!(matches!(refused(&without_host), Refused::Incomplete(_)));
    assert!(matches!(refused(&Signing { service: "s3", ..RIGHT }), Refused::Invalid(_)));
    assert!(matches!(refused(&Signing { secret: "other", ..RIGHT }), Refused::Invalid(_)));
    assert_eq!(refused(&Signing { id: "TMRNB", ..RIGHT }), Refused::Unknown);
    for (date, is_fine) in [
        ("20261127T081501Z", true),
        ("20261127T081459Z", false),
        ("20261127T084459Z", true),
        ("20261127T084501Z", false),
        ("20261126T083000Z", false),
    ] {
        let outcome = outcome(&signed(&Signing { date, ..RIGHT }), BODY);
        assert_eq!(outcome.is_ok(), is_fine, "{date}: {outcome:?}");
    }
}

#[test]
fn what_is_no_date_is_none() {
    assert_eq!(milliseconds(DATE), Some(NOW_MS));
    for text in ["", "Z", "20261127T0830Z", "2026-11-27T08:30:00Z", "20261327T083000Z", "2026112éT083000Z"] {
        assert_eq!(milliseconds(text), None, "{text}");
    }
}
