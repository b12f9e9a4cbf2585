//! ROLE, WAITAOF, LATENCY, and what MEMORY says of the node: commands of operators.

use bytes::Bytes;
use trimaran_replication::group::Group;

use super::Front;
use super::plan::{Step, said};
use crate::command::arguments::{integer, lower};
use crate::command::reply::Answer;
use crate::command::table::Spec;
use crate::command::{Done, refuse};
use crate::machine::GridMachine;

/// ROLE: every node takes writes.
pub(super) fn role(front: &Front) -> Step {
    let mut changes = 0;
    for (_, group) in front.router.replicas() {
        changes += group.read_now(|machine| machine.keys().version());
    }
    said(|out| {
        out.array(3);
        out.bulk(b"master");
        out.integer(i64::try_from(changes).unwrap_or(i64::MAX));
        out.array(0);
    })
}

/// WAITAOF: what was answered is flushed to disks only with durability `fsync`, and then before it is answered.
pub(super) fn waitaof(front: &Front, arguments: &[Bytes]) -> Done<Step> {
    let number = |at: usize| integer(&arguments[at]);
    let (here, elsewhere) = (number(1)?, number(2)?);
    let timeout = number(3).or_else(|_| refuse("ERR timeout is not an integer or out of range"))?;
    if !(0..=1).contains(&here) || elsewhere < 0 {
        return refuse("ERR value is out of range, must be positive");
    }
    if timeout < 0 {
        return refuse("ERR timeout is negative");
    }
    let is_flushed = front.is_flushed;
    if here > 0 && !is_flushed {
        return refuse(
            "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled (this node's durability is not fsync).",
        );
    }
    let others = (front.router.least_copies() / 2 + 1).saturating_sub(1);
    Ok(said(|out| {
        out.array(2);
        out.count(usize::from(is_flushed));
        out.count(if is_flushed { others } else { 0 });
    }))
}

/// MEMORY about the node; `None` if it is about a key.
pub(super) fn memory(front: &Front, spec: &Spec, arguments: &[Bytes]) -> Option<Done<Step>> {
    if spec.name != "memory" {
        return None;
    }
    let memory = front.router.memory();
    Some(Ok(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("doctor", []) => said(|out| {
            out.verbatim(&match (memory.used(), memory.most()) {
                (used, most) if most > 0 && used >= most => {
                    format!(
                        "Keys take {used} bytes, maxmemory is {most}: what needs more is refused, or others go ({}).\n",
                        memory.policy().name()
                    )
                }
                (used, _) => format!("Keys take {used} bytes; nothing is wrong with that.\n"),
            })
        }),
        ("stats", []) => {
            let count = |group: &Group<GridMachine>| group.read_now(|machine| machine.keys().len() as u64);
            let keys: u64 = front.router.replicas().iter().map(|(_, group)| count(group)).sum();
            let used = memory.used();
            let numbers = [
                ("total.allocated", used),
                ("keys.count", keys),
                ("keys.bytes-per-key", used.checked_div(keys).unwrap_or(0)),
                ("dataset.bytes", used),
                ("maxmemory", memory.most()),
            ];
            said(|out| {
                out.map(numbers.len());
                for (name, number) in numbers {
                    out.bulk(name.as_bytes());
                    out.integer(i64::try_from(number).unwrap_or(i64::MAX));
                }
            })
        }
        // The allocator gives back what it does not need by itself.
        ("purge", []) => said(Answer::ok),
        _ => return None,
    }))
}

/// LATENCY: there is no monitor; metrics and SLOWLOG say what takes how long.
pub(super) fn latency(arguments: &[Bytes]) -> Done<Step> {
    Ok(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("latest", []) | ("history", [_]) => said(|out| out.array(0)),
        ("histogram", _) => said(|out| out.map(0)),
        ("reset", _) => said(|out| out.count(0)),
        ("doctor", []) => said(|out| {
            out.verbatim("No latency events are collected here: see SLOWLOG GET, and the node's metrics.\n");
        }),
        ("graph", [event]) => {
            let event = String::from_utf8_lossy(event);
            return refuse(format!("ERR No samples available for event '{event}'"));
        }
        _ => {
            return refuse(
                "ERR unknown subcommand or wrong number of arguments for 'latency'. Try LATENCY HELP.",
            );
        }
    })
}
