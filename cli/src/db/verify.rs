//! `trimaran db verify`: whether all copies have the same.

use std::process::ExitCode;

use serde_json::json;
use trimaran_client::database::{Database, VerifiedPartition};

use crate::output::Format;

fn line(found: &VerifiedPartition) -> String {
    let rows = found.copies.iter().map(|copy| copy.rows).max().unwrap_or(0);
    let silent = found.copies.iter().filter(|copy| copy.checksum.is_none()).count();
    let copies = found.copies.len();
    let outcome = match (found.equal, silent) {
        (true, 0) if copies == 1 => "there is one copy".to_owned(),
        (true, 0) => format!("{copies} copies are the same"),
        (true, _) => format!("{silent} of {copies} copies did not answer, the others are the same"),
        (false, _) => "COPIES DIFFER".to_owned(),
    };
    format!("partition {}: {rows} rows, {outcome}", found.id)
}

/// Failure if one differs, or did not answer.
pub(super) async fn run(database: &Database, output: Format) -> anyhow::Result<ExitCode> {
    let (mut is_whole, mut shown) = (true, Ok(()));
    let look = |found: VerifiedPartition| {
        is_whole &= found.is_whole();
        let copies = found.copies.iter().map(|copy| {
            let checksum = copy.checksum.as_ref();
            let checksum =
                checksum.map(|sum| sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            json!({ "node": copy.node, "checksum": checksum, "rows": copy.rows, "bytes": copy.bytes })
        });
        let copies: Vec<_> = copies.collect();
        let told = json!({ "partition": found.id, "equal": found.equal, "copies": copies });
        if shown.is_ok() {
            shown = output.show(&told, |_| line(&found));
        }
    };
    database.verify(look).await?;
    shown?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
