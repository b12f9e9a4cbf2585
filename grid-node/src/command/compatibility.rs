//! What of Redis is not here, or not quite: for the page about commands in the documentation.

use super::table::TABLE;

/// Commands of Redis 7.4 that are not offered, and why.
const NOT_OFFERED: &[(&str, &str)] = &[
    ("BGREWRITEAOF", "logs shorten themselves"),
    ("BGSAVE", "snapshots are made by themselves"),
    ("FAILOVER", "leaders change by themselves"),
    ("GEOADD", "not yet"),
    ("GEODIST", "not yet"),
    ("GEOHASH", "not yet"),
    ("GEOPOS", "not yet"),
    ("GEORADIUS", "not yet"),
    ("GEORADIUSBYMEMBER", "not yet"),
    ("GEORADIUSBYMEMBER_RO", "not yet"),
    ("GEORADIUS_RO", "not yet"),
    ("GEOSEARCH", "not yet"),
    ("GEOSEARCHSTORE", "not yet"),
    ("LASTSAVE", "snapshots are made by themselves"),
    ("MIGRATE", "partitions move by themselves"),
    ("MODULE", "there are no modules"),
    ("MONITOR", "not yet"),
    ("MOVE", "there is database 0 only"),
    ("PFDEBUG", "for Redis' own tests"),
    ("PFSELFTEST", "for Redis' own tests"),
    ("PSYNC", "nodes replicate by Raft"),
    ("REPLCONF", "nodes replicate by Raft"),
    ("REPLICAOF", "nodes replicate by Raft"),
    ("RESTORE-ASKING", "there is no half-moved slot"),
    ("SAVE", "snapshots are made by themselves"),
    ("SHUTDOWN", "a node ends by SIGTERM, or for good by trimaran cluster drain"),
    ("SLAVEOF", "nodes replicate by Raft"),
    ("SWAPDB", "there is database 0 only"),
    ("SYNC", "nodes replicate by Raft"),
];

/// Commands that are not quite those of Redis, and how.
const PARTLY: &[(&str, &str)] = &[
    (
        "ACL",
        "users are the cluster's: there is no file to LOAD or SAVE; what a script is refused is not in the LOG",
    ),
    ("BLMPOP", "its keys must be in one partition: give them a hash tag"),
    ("BLPOP", "its keys must be in one partition: give them a hash tag"),
    ("BRPOP", "its keys must be in one partition: give them a hash tag"),
    ("BZMPOP", "its keys must be in one partition: give them a hash tag"),
    ("BZPOPMAX", "its keys must be in one partition: give them a hash tag"),
    ("BZPOPMIN", "its keys must be in one partition: give them a hash tag"),
    (
        "CLIENT",
        "GETNAME, SETNAME, SETINFO, ID, INFO, LIST, KILL, UNBLOCK, PAUSE, UNPAUSE, REPLY, NO-EVICT, NO-TOUCH, TRACKING, TRACKINGINFO, CACHING, GETREDIR; connections of this node",
    ),
    ("CLUSTER", "SLOTS, SHARDS, NODES, INFO, KEYSLOT, MYID, COUNTKEYSINSLOT"),
    ("COMMAND", "without key specifications and subcommands"),
    ("CONFIG", "GET, SET, RESETSTAT; what lays values out is changed for the commands that this node takes"),
    ("DEBUG", "SLEEP, of this connection only"),
    ("EVAL", "without the libraries cmsgpack and struct; a script ends after SCRIPT_INSTRUCTIONS_MAX"),
    ("EVALSHA", "of scripts that this node has seen"),
    ("EXEC", "its keys must be in one partition: give them a hash tag"),
    ("FCALL", "its keys must be in one partition: give them a hash tag"),
    ("FLUSHALL", "partition by partition"),
    ("FLUSHDB", "partition by partition"),
    (
        "FUNCTION",
        "libraries are loaded partition by partition; a function ends after SCRIPT_INSTRUCTIONS_MAX",
    ),
    (
        "INFO",
        "Server, Clients, Memory, Persistence, Replication, CPU, Commandstats, Cluster, Keyspace; of this node",
    ),
    ("LATENCY", "answers, but collects nothing: see SLOWLOG and the metrics"),
    ("MEMORY", "USAGE, DOCTOR, STATS (some of it), PURGE"),
    ("MGET", "keys of different slots are not read at the same instant"),
    ("PFCOUNT", "the estimate is not cached in the value"),
    ("PUBLISH", "within a script it is answered with 0: nobody has it before the script's entry is applied"),
    ("ROLE", "every node is a master"),
    ("SELECT", "there is database 0 only"),
    ("SLOWLOG", "of this node; of commands that were sent together the first, with the time of all"),
    ("SORT", "keys of BY and GET must be in the partition of the key"),
    ("WAIT", "answers at once: what was answered is on a majority"),
    ("WAITAOF", "answers at once: with durability fsync, what was answered is on the disks of a majority"),
];

/// The page: a table of all commands.
fn page() -> String {
    let mut rows: Vec<(String, String)> = TABLE
        .iter()
        .map(|spec| {
            let name = spec.name.to_uppercase();
            let partly = PARTLY.iter().find(|(partly, _)| *partly == name);
            let is_here = partly.map_or_else(|| "yes".to_owned(), |(_, how)| format!("partly: {how}"));
            let row = format!("| {name} | {} | {is_here} |", spec.summary);
            (name, row)
        })
        .collect();
    rows.extend(
        NOT_OFFERED.iter().map(|(name, why)| ((*name).to_owned(), format!("| {name} | | no: {why} |"))),
    );
    rows.sort();
    let rows: Vec<String> = rows.into_iter().map(|(_, row)| row).collect();
    format!(
        "# Commands of Redis\n\n\
         What the grid takes over the Redis protocol and over HTTP, of the commands of Redis 7.4. This page is made from \
         the table that nodes use (`grid-node/src/command/table.rs`); a test holds the two together. How far Redis' own \
         tests pass: [redis-suite.md](redis-suite.md).\n\n\
         Keys of one command that is not marked otherwise must be in one partition, or it is refused with CROSSSLOT; \
         keys with a common hash tag, `{{user1}}:name` and `{{user1}}:cart`, always are.\n\n\
         | command | what it does | here |\n|---|---|---|\n{}\n",
        rows.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::find;

    #[test]
    fn what_is_said_of_commands_is_about_such_as_there_are() {
        assert!(PARTLY.iter().all(|(name, _)| find(name.as_bytes()).is_some()));
        let both: Vec<_> = NOT_OFFERED.iter().filter(|(name, _)| find(name.as_bytes()).is_some()).collect();
        assert!(both.is_empty(), "{both:?}");
    }

    /// With TRIMARAN_WRITE_DOCS set, the page is written instead.
    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "how somebody who has changed the table asks for the new page"
    )]
    fn the_page_in_the_documentation_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api/redis.md");
        if std::env::var_os("TRIMARAN_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            page(),
            "run this test with TRIMARAN_WRITE_DOCS=1"
        );
    }
}
