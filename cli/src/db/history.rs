//! `trimaran db history`, and the moment that others read as of.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde_json::{Value as Json, json};
use trimaran_client::database::{Database, History};
use trimaran_net::clock::{Clock as _, SystemClock};

use crate::output::Format;

#[derive(clap::Args)]
pub(super) struct Moment {
    /// As it was: so long ago (30s, 2h), or then (2026-11-27T14:03:45Z, or milliseconds since 1970). The table has to keep a history
    #[arg(long, value_name = "AGO|TIME")]
    as_of: Option<String>,
}

impl Moment {
    /// Milliseconds since 1970.
    pub(super) fn as_of_ms(&self) -> anyhow::Result<Option<u64>> {
        self.as_of.as_ref().map(|text| parse(text, SystemClock.now_ms())).transpose()
    }
}

fn parse(text: &str, now_ms: u64) -> anyhow::Result<u64> {
    match text.parse() {
        Ok(0) => bail!("--as-of 0: there was no cluster then"),
        Ok(as_of_ms) => return Ok(as_of_ms),
        Err(_) => {}
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        // What is said to be now is not over yet.
        let ago_ms = u64::try_from(ago.as_millis())?.max(1);
        return now_ms.checked_sub(ago_ms).with_context(|| format!("--as-of {text}: that is before 1970"));
    }
    let at = humantime::parse_rfc3339_weak(text).with_context(|| {
        format!("--as-of {text}: write how long ago (30s, 2h), a time (2026-11-27T14:03:45Z), or milliseconds since 1970")
    })?;
    let since =
        at.duration_since(UNIX_EPOCH).with_context(|| format!("--as-of {text}: that is before 1970"))?;
    Ok(u64::try_from(since.as_millis())?)
}

/// As it is told of a table.
pub(super) fn shown(history: &History) -> Json {
    let since = history
        .since_ms
        .map(|since| humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(since)).to_string());
    json!({ "kept": humantime::format_duration(history.kept).to_string(), "since": since })
}

pub(super) async fn run(database: &Database, table: &str, kept: &str, output: Format) -> anyhow::Result<()> {
    let kept = match kept {
        "off" => None,
        kept => Some(
            humantime::parse_duration(kept).with_context(|| format!("{kept}: write it as 90s, 1h or off"))?,
        ),
    };
    database.keep_history(table, kept).await?;
    let kept = kept.map(|kept| humantime::format_duration(kept).to_string());
    output.show(&json!({ "table": table, "kept": kept }), |_| match &kept {
        Some(kept) => format!("what items of {table} were is kept for {kept} from now on"),
        None => format!("what items of {table} were is kept no more"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_so_long_ago_or_a_time() {
        let now = 1_764_252_225_000;
        let moments = [
            ("1764252000000", 1_764_252_000_000),
            ("0s", 1_764_252_224_999),
            ("90s", 1_764_252_135_000),
            ("2h", 1_764_245_025_000),
            ("2025-11-27T14:03:45Z", 1_764_252_225_000),
            ("2025-11-27 14:03:45", 1_764_252_225_000),
        ];
        for (text, as_of_ms) in moments {
            assert_eq!(parse(text, now).unwrap(), as_of_ms, "{text}");
        }
        for bad in ["yesterday", "", "-5", "0"] {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }
}
