//! History: for how long a table's items can be read as they were.

use trimaran_proto::state::shard as state;

use super::Table;
use crate::error::{Error, Invalid};
use crate::store::version_at;

/// For how long superseded versions of a table's items are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Milliseconds.
    pub kept_ms: u64,
    /// From when on nothing is missing, milliseconds since 1970; `None` = the partitions are being told that it begins.
    pub since_ms: Option<u64>,
    /// The partitions are being told that it ends.
    pub ends: bool,
}

impl History {
    /// Whether the partitions are being told something.
    pub fn is_underway(&self) -> bool {
        self.since_ms.is_none() || self.ends
    }

    pub(super) fn encode(&self) -> state::History {
        state::History {
            kept_ms: self.kept_ms,
            since_ms: self.since_ms.unwrap_or_default(),
            ending: self.ends,
        }
    }

    pub(super) fn decode(stored: state::History) -> Self {
        let state::History { kept_ms, since_ms, ending: ends } = stored;
        Self { kept_ms, since_ms: Some(since_ms).filter(|since| *since > 0), ends }
    }
}

impl Table {
    /// Has superseded versions kept for so long, or no more (`None`). What is known to be missing stays known.
    ///
    /// Errors: [`Error::TableInUse`] while the partitions are being told something else.
    pub fn set_history(&mut self, kept_ms: Option<u64>, now_ms: u64) -> Result<(), Error> {
        if self.history.is_some_and(|history| history.is_underway()) {
            return Err(Error::TableInUse(format!(
                "Attempt to change a resource which is still in use: the history of table {} begins or ends",
                self.name
            )));
        }
        match (&mut self.history, kept_ms) {
            (None, None) => {}
            (None, Some(kept_ms)) => {
                self.history = Some(History { kept_ms, since_ms: None, ends: false });
            }
            (Some(history), None) => history.ends = true,
            (Some(history), Some(kept_ms)) => {
                let oldest = now_ms.saturating_sub(history.kept_ms);
                history.since_ms = history.since_ms.map(|since| since.max(oldest));
                history.kept_ms = kept_ms;
            }
        }
        Ok(())
    }

    /// The newest version that counts for who wants to see the items as they were at the end of a millisecond since 1970.
    ///
    /// Errors: [`Error::Validation`] if that is not over yet, or the table keeps no history; [`Error::HistoryTrimmed`].
    pub fn as_of(&self, as_of_ms: u64, now_ms: u64) -> Result<u64, Error> {
        if as_of_ms >= now_ms {
            return Err(Invalid::new(format!(
                "as_of_ms: {as_of_ms} is not over yet; it is {now_ms} milliseconds since 1970 at this node"
            ))
            .into());
        }
        let kept = self.history.filter(|history| !history.ends);
        let Some((since_ms, kept_ms)) = kept.and_then(|kept| Some((kept.since_ms?, kept.kept_ms))) else {
            return Err(Invalid::new(format!(
                "as_of_ms: table {} keeps no history, or not yet; see UpdateTable's history_s",
                self.name
            ))
            .into());
        };
        let oldest_ms = since_ms.max(now_ms.saturating_sub(kept_ms));
        if as_of_ms < oldest_ms {
            return Err(Error::HistoryTrimmed { table: self.name.clone(), oldest_ms });
        }
        Ok(version_at(as_of_ms + 1) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Type;
    use crate::table::KeyAttribute;

    #[test]
    fn it_is_known_what_is_missing_whatever_is_changed() {
        let key = KeyAttribute { name: "id".to_owned(), kind: Type::S };
        let mut table = Table::new("orders".to_owned(), key, None);
        table.as_of(1, 5).unwrap_err();
        table.set_history(Some(1_000), 10_000).unwrap();
        table.as_of(9_999, 10_000).unwrap_err();
        assert!(matches!(table.set_history(None, 10_000), Err(Error::TableInUse(_))), "it begins");
        table.history.as_mut().unwrap().since_ms = Some(10_100);
        assert!(matches!(table.as_of(10_099, 10_500), Err(Error::HistoryTrimmed { oldest_ms: 10_100, .. })));
        assert_eq!(table.as_of(10_100, 10_500).unwrap(), version_at(10_101) - 1);
        table.as_of(10_500, 10_500).unwrap_err();
        assert!(matches!(table.as_of(10_999, 12_000), Err(Error::HistoryTrimmed { oldest_ms: 11_000, .. })));
        // What was not kept until now does not come back.
        table.set_history(Some(60_000), 20_000).unwrap();
        assert!(matches!(table.as_of(18_999, 20_001), Err(Error::HistoryTrimmed { oldest_ms: 19_000, .. })));
        table.as_of(19_000, 70_000).unwrap();
        let read = Table::decode(table.encode(), 7).unwrap();
        assert_eq!(read.history, table.history);
        table.set_history(None, 80_000).unwrap();
        table.as_of(79_000, 80_000).unwrap_err();
    }
}
