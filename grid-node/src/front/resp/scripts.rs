//! The scripts that this node has seen: EVALSHA and SCRIPT. What goes into the log is always the script itself.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::Front;
use super::plan::{Step, said};
use crate::command::arguments::{is, lower};
use crate::command::reply::Answer;
use crate::command::scripting::{check, digest};
use crate::command::table::{Spec, find};
use crate::command::{Done, refuse};
use crate::limits::{SCRIPTS_BYTES_KEPT, SCRIPTS_KEPT};

/// By their digests; the oldest is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_digest: HashMap<String, Bytes>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Scripts {
    fn keep(&self, script: &Bytes) -> String {
        let digest = digest(script);
        let mut kept = self.kept.lock();
        if kept.by_digest.contains_key(&digest) {
            return digest;
        }
        kept.bytes += script.len();
        kept.by_digest.insert(digest.clone(), Bytes::copy_from_slice(script));
        kept.order.push_back(digest.clone());
        while kept.order.len() > SCRIPTS_KEPT || kept.bytes > SCRIPTS_BYTES_KEPT {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.bytes -= kept.by_digest.remove(&oldest).map_or(0, |script| script.len());
        }
        digest
    }

    fn get(&self, digest: &[u8]) -> Option<Bytes> {
        self.kept.lock().by_digest.get(&lower(digest)).cloned()
    }
}

/// EVALSHA as the EVAL that it stands for; EVAL is remembered. Others stay as they are.
pub(super) fn resolve(
    front: &Front,
    spec: &'static Spec,
    mut arguments: Vec<Bytes>,
) -> Done<(&'static Spec, Vec<Bytes>)> {
    let by_digest = match spec.name {
        "eval" | "eval_ro" => {
            front.scripts.keep(&arguments[1]);
            return Ok((spec, arguments));
        }
        "evalsha" => "eval",
        "evalsha_ro" => "eval_ro",
        _ => return Ok((spec, arguments)),
    };
    let Some(script) = front.scripts.get(&arguments[1]) else {
        return refuse("NOSCRIPT No matching script. Please use EVAL.");
    };
    arguments[0] = Bytes::from_static(by_digest.as_bytes());
    arguments[1] = script;
    match find(by_digest.as_bytes()) {
        Some(spec) => Ok((spec, arguments)),
        None => refuse("ERR this command is not offered"),
    }
}

/// SCRIPT.
pub(super) fn plan(front: &Front, arguments: &[Bytes]) -> Done<Step> {
    Ok(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("load", [script]) => {
            check(script)?;
            let digest = front.scripts.keep(script);
            said(|out| out.bulk(digest.as_bytes()))
        }
        ("exists", digests) if !digests.is_empty() => said(|out| {
            out.array(digests.len());
            digests.iter().for_each(|digest| out.flag(front.scripts.get(digest).is_some()));
        }),
        ("flush", [] | [_]) => {
            if arguments.get(2).is_some_and(|how| !is(how, "sync") && !is(how, "async")) {
                return refuse("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
            }
            *front.scripts.kept.lock() = Kept::default();
            said(Answer::ok)
        }
        // One ends by itself soon enough, and on every replica.
        ("kill", []) => return refuse("NOTBUSY No scripts in execution right now."),
        _ => {
            return refuse(
                "ERR unknown subcommand or wrong number of arguments for 'script'. Try SCRIPT HELP.",
            );
        }
    })
}
