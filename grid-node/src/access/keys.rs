//! What commands do to each of their keys, for rules that allow only one: read what is in it, write to it. Source: the key
//! specifications of Redis (`ACCESS` is to read; `INSERT`, `UPDATE` and `DELETE` are to write).

use bytes::Bytes;

use crate::command::arguments::is;
use crate::command::table::Spec;

/// Commands that tell no more than whether something is there, or how much: whoever may do anything with the key may.
const TELLING_NOTHING: &[&str] = &[
    "exists",
    "expiretime",
    "hexists",
    "hexpiretime",
    "hlen",
    "hpexpiretime",
    "hpttl",
    "hstrlen",
    "httl",
    "llen",
    "memory",
    "object",
    "pexpiretime",
    "pttl",
    "scard",
    "sismember",
    "smismember",
    "strlen",
    "touch",
    "ttl",
    "type",
    "watch",
    "xlen",
    "zcard",
];

/// Commands that change a key and tell what was in it.
const TELLING: &[&str] = &[
    "bitfield",
    "blmpop",
    "blpop",
    "brpop",
    "bzmpop",
    "bzpopmax",
    "bzpopmin",
    "decr",
    "decrby",
    "eval",
    "evalsha",
    "fcall",
    "getdel",
    "getex",
    "getset",
    "hincrby",
    "hincrbyfloat",
    "incr",
    "incrby",
    "incrbyfloat",
    "lmpop",
    "lpop",
    "rpop",
    "setbit",
    "spop",
    "xautoclaim",
    "xclaim",
    "zincrby",
    "zmpop",
    "zpopmax",
    "zpopmin",
];

/// Whether the key at a place is read, and whether it is written to.
pub(super) fn accesses(spec: &Spec, arguments: &[Bytes], place: usize) -> (bool, bool) {
    const READ: (bool, bool) = (true, false);
    const WRITE: (bool, bool) = (false, true);
    const BOTH: (bool, bool) = (true, true);
    let is_first = place == 0;
    match spec.name {
        name if TELLING_NOTHING.contains(&name) => (false, false),
        "xreadgroup" => READ,
        "set" if arguments.iter().skip(3).any(|word| is(word, "get")) => BOTH,
        "bitfield" if !arguments.iter().skip(2).any(|word| is(word, "set") || is(word, "incrby")) => READ,
        // The first is taken from, the second given to.
        "lmove" | "blmove" | "rpoplpush" | "brpoplpush" | "smove" | "rename" | "renamenx" if is_first => BOTH,
        "copy" | "sort" if is_first => READ,
        "lmove" | "blmove" | "rpoplpush" | "brpoplpush" | "smove" | "rename" | "renamenx" | "copy"
        | "sort" => WRITE,
        // The first is made of the others.
        "bitop" | "sinterstore" | "sunionstore" | "sdiffstore" | "zinterstore" | "zunionstore"
        | "zdiffstore" | "zrangestore" => {
            if is_first {
                WRITE
            } else {
                READ
            }
        }
        "pfmerge" if is_first => BOTH,
        "pfmerge" => READ,
        name if TELLING.contains(&name) => BOTH,
        _ if spec.is("write") => WRITE,
        _ => READ,
    }
}
