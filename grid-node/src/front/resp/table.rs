//! The commands that are offered, as data: checks arity, answers COMMAND.

/// One command as Redis describes commands.
#[derive(Debug)]
pub struct Spec {
    /// Lower case.
    pub name: &'static str,
    /// Arguments with the name; negative = at least.
    pub arity: i64,
    /// As `COMMAND INFO` says them.
    pub flags: &'static [&'static str],
    /// Positions of keys: first, last (negative = from the end), step; 0 = none.
    pub keys: (i64, i64, i64),
    /// For `COMMAND DOCS`.
    pub summary: &'static str,
}

const fn spec(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: (i64, i64, i64),
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, keys, summary }
}

/// All commands offered, by name.
pub static TABLE: &[Spec] = &[
    spec("asking", 1, &["fast"], (0, 0, 0), "Does nothing: there is no half-moved slot."),
    spec(
        "client",
        -2,
        &["noscript", "loading", "stale"],
        (0, 0, 0),
        "Connection: SETNAME, GETNAME, SETINFO, ID.",
    ),
    spec(
        "cluster",
        -2,
        &["loading", "stale"],
        (0, 0, 0),
        "Which slots are where: SLOTS, SHARDS, NODES, INFO, KEYSLOT, MYID, COUNTKEYSINSLOT.",
    ),
    spec("command", -1, &["loading", "stale"], (0, 0, 0), "What commands there are."),
    spec(
        "config",
        -2,
        &["admin", "loading", "stale"],
        (0, 0, 0),
        "GET answers with nothing: options are flags of the node.",
    ),
    spec("dbsize", 1, &["readonly", "fast"], (0, 0, 0), "Number of keys, as this node holds them."),
    spec("decr", 2, &["write", "denyoom", "fast"], (1, 1, 1), "Subtracts one from an integer."),
    spec("decrby", 3, &["write", "denyoom", "fast"], (1, 1, 1), "Subtracts from an integer."),
    spec("del", -2, &["write"], (1, -1, 1), "Deletes keys."),
    spec("echo", 2, &["loading", "stale", "fast"], (0, 0, 0), "Says the same."),
    spec("exists", -2, &["readonly", "fast"], (1, -1, 1), "Counts keys that are there."),
    spec("expire", -3, &["write", "fast"], (1, 1, 1), "Sets a time to live in seconds."),
    spec("expireat", -3, &["write", "fast"], (1, 1, 1), "Sets the second in which a key ends."),
    spec("expiretime", 2, &["readonly", "fast"], (1, 1, 1), "The second in which a key ends."),
    spec("get", 2, &["readonly", "fast"], (1, 1, 1), "The value of a key."),
    spec("getdel", 2, &["write", "fast"], (1, 1, 1), "The value of a key, which is deleted."),
    spec(
        "getset",
        3,
        &["write", "denyoom", "fast"],
        (1, 1, 1),
        "Sets a value and answers with the one before.",
    ),
    spec(
        "hello",
        -1,
        &["noscript", "loading", "stale", "fast", "no_auth"],
        (0, 0, 0),
        "Begins a connection in RESP2 or RESP3.",
    ),
    spec("incr", 2, &["write", "denyoom", "fast"], (1, 1, 1), "Adds one to an integer."),
    spec("incrby", 3, &["write", "denyoom", "fast"], (1, 1, 1), "Adds to an integer."),
    spec("info", -1, &["loading", "stale"], (0, 0, 0), "About this node."),
    spec("mget", -2, &["readonly", "fast"], (1, -1, 1), "The values of keys."),
    spec("mset", -3, &["write", "denyoom"], (1, -1, 2), "Sets keys, all at once."),
    spec("msetnx", -3, &["write", "denyoom"], (1, -1, 2), "Sets keys, all at once, if none is there."),
    spec("persist", 2, &["write", "fast"], (1, 1, 1), "Takes the time to live away."),
    spec("pexpire", -3, &["write", "fast"], (1, 1, 1), "Sets a time to live in milliseconds."),
    spec("pexpireat", -3, &["write", "fast"], (1, 1, 1), "Sets the millisecond in which a key ends."),
    spec("pexpiretime", 2, &["readonly", "fast"], (1, 1, 1), "The millisecond in which a key ends."),
    spec("ping", -1, &["fast"], (0, 0, 0), "Answers PONG."),
    spec("psetex", 4, &["write", "denyoom"], (1, 1, 1), "Sets a value with a time to live in milliseconds."),
    spec("pttl", 2, &["readonly", "fast"], (1, 1, 1), "Milliseconds that a key has left."),
    spec("quit", -1, &["loading", "stale", "fast", "no_auth"], (0, 0, 0), "Ends the connection."),
    spec(
        "readonly",
        1,
        &["loading", "stale", "fast"],
        (0, 0, 0),
        "Does nothing: every read is at the leader.",
    ),
    spec("readwrite", 1, &["loading", "stale", "fast"], (0, 0, 0), "Does nothing, likewise."),
    spec(
        "reset",
        1,
        &["noscript", "loading", "stale", "fast", "no_auth"],
        (0, 0, 0),
        "The connection as it was at first.",
    ),
    spec("scan", -2, &["readonly"], (0, 0, 0), "Keys, page by page."),
    spec("select", 2, &["loading", "stale", "fast"], (0, 0, 0), "There is database 0 only."),
    spec("set", -3, &["write", "denyoom"], (1, 1, 1), "Sets a value."),
    spec("setex", 4, &["write", "denyoom"], (1, 1, 1), "Sets a value with a time to live in seconds."),
    spec("setnx", 3, &["write", "denyoom", "fast"], (1, 1, 1), "Sets a value if the key is not there."),
    spec("strlen", 2, &["readonly", "fast"], (1, 1, 1), "Bytes of a value."),
    spec("ttl", 2, &["readonly", "fast"], (1, 1, 1), "Seconds that a key has left."),
    spec("type", 2, &["readonly", "fast"], (1, 1, 1), "The data type of a key."),
    spec("unlink", -2, &["write", "fast"], (1, -1, 1), "Deletes keys."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_lookup() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    }
}
