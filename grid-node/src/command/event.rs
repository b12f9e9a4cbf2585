//! What the changes of each command are called in keyspace notifications. A command that is not here has its own name;
//! those that do several things say so as they do them.

use bytes::Bytes;
use trimaran_proto::state::grid::command::Body;

use super::arguments::{is, lower};
use super::table::Spec;
use crate::data::notice::{Classes, Doing};

/// What a command does to its keys, unless it says otherwise.
pub(super) fn doing(spec: &Spec, arguments: &[Bytes]) -> Doing {
    let class = match spec.group {
        "string" | "bitmap" | "hyperloglog" => Classes::STRING,
        "list" => Classes::LIST,
        "set" => Classes::SET,
        "hash" => Classes::HASH,
        "sorted-set" => Classes::SORTED_SET,
        "stream" => Classes::STREAM,
        _ => Classes::GENERIC,
    };
    let event = match spec.name {
        "setnx" | "setex" | "psetex" | "getset" | "mset" | "msetnx" | "bitop" => "set",
        "incr" | "decr" | "decrby" => "incrby",
        "bitfield" => "setbit",
        "pfmerge" => "pfadd",
        "lpushx" => "lpush",
        "rpushx" => "rpush",
        "blpop" => "lpop",
        "brpop" => "rpop",
        "lmpop" | "blmpop" => {
            match arguments.iter().skip(3).find(|word| is(word, "left") || is(word, "right")) {
                Some(word) if is(word, "right") => "rpop",
                _ => "lpop",
            }
        }
        "zadd" if arguments.iter().skip(2).any(|word| is(word, "incr")) => "zincr",
        "zincrby" => "zincr",
        "bzpopmin" => "zpopmin",
        "bzpopmax" => "zpopmax",
        "zmpop" | "bzmpop" => {
            match arguments.iter().skip(3).find(|word| is(word, "min") || is(word, "max")) {
                Some(word) if is(word, "max") => "zpopmax",
                _ => "zpopmin",
            }
        }
        "hmset" | "hsetnx" => "hset",
        "hpexpire" | "hexpireat" | "hpexpireat" => "hexpire",
        "sort" => return Doing::new(Classes::LIST, "sortstore"),
        "xgroup" => match lower(&arguments[1]).as_str() {
            "create" => "xgroup-create",
            "setid" => "xgroup-setid",
            "destroy" => "xgroup-destroy",
            "createconsumer" => "xgroup-createconsumer",
            _ => "xgroup-delconsumer",
        },
        // What they change is told of by itself, if at all.
        "xreadgroup" | "xclaim" | "xautoclaim" | "xack" | "eval" | "evalsha" => return Doing::SILENT,
        "copy" => "copy_to",
        "getex" => return Doing::EXPIRE,
        "del" | "unlink" | "getdel" => return Doing::DEL,
        "expire" | "pexpire" | "expireat" | "pexpireat" => return Doing::EXPIRE,
        name => name,
    };
    Doing::new(class, event)
}

/// The same of a command of gRPC's.
pub(crate) fn doing_of_typed(body: &Body) -> Doing {
    match body {
        Body::Set(_) | Body::MultiSet(_) | Body::CompareAndSwap(_) => Doing::new(Classes::STRING, "set"),
        Body::Increment(_) => Doing::new(Classes::STRING, "incrby"),
        Body::Delete(_) => Doing::DEL,
        Body::Expire(_) => Doing::EXPIRE,
        Body::Evict(_) => Doing::EVICTED,
        Body::Load(_) => Doing::new(Classes::GENERIC, "restore"),
        Body::Reap(_) => Doing::new(Classes::HASH, "hexpired"),
        Body::Run(_) | Body::Transaction(_) | Body::Pipeline(_) => Doing::SILENT,
        // They are about no keys.
        Body::Acquire(_) | Body::Renew(_) | Body::Release(_) => Doing::SILENT,
    }
}
