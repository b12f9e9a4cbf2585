//! Commands about the connection and the node: they need no partition and are answered at once.

use std::time::Duration;

use bytes::Bytes;
use trimaran_placement::token::SLOTS;
use trimaran_service::usage;

use super::plan::{Session, Step, said};
use super::task::Task;
use super::{
    Front, clients, cluster, introspection, scripts, server, settings, slow_log, subscriptions, tracking,
    transaction, users,
};
use crate::access::DEFAULT;
use crate::command::arguments::{SYNTAX, float, integer, is, lower};
use crate::command::key::key_scan_options;
use crate::command::reply::{Answer, Protocol};
use crate::command::table::Spec;
use crate::command::{Done, refuse};
use crate::limits::CONNECTIONS_MAX;

/// The Redis whose commands these are.
pub(super) const REDIS_VERSION: &str = "7.4.0";

/// Commands that need no partition; whether the connection ends.
pub(super) fn plan(
    front: &Front,
    session: &mut Session,
    spec: &'static Spec,
    arguments: &[Bytes],
) -> Done<(Step, bool)> {
    let step = match spec.name {
        "ping" => match arguments {
            [_] => subscriptions::pong(session, None),
            [_, text] => subscriptions::pong(session, Some(text)),
            _ => return refuse("ERR wrong number of arguments for 'ping' command"),
        },
        "echo" => said(|out| out.bulk(&arguments[1])),
        "quit" => return Ok((said(Answer::ok), true)),
        "reset" => {
            tracking::end(front, session);
            session.client.forget();
            session.client.subscribed(None);
            *session = Session::new(session.front, session.client.clone(), session.redirect);
            session.enter(front);
            session.client.is_user(DEFAULT);
            said(|out| out.simple("RESET"))
        }
        "select" => match integer(&arguments[1]) {
            Ok(0) => said(Answer::ok),
            Ok(_) => return refuse("ERR DB index is out of range: there is database 0 only"),
            Err(_) => return refuse("ERR invalid DB index"),
        },
        "auth" => users::auth(front, session, arguments)?,
        "acl" => users::plan(front, session, arguments)?,
        "hello" => hello(front, session, arguments)?,
        "client" => clients::plan(front, session, arguments)?,
        "config" => settings::plan(front, arguments)?,
        "info" => said(|out| out.verbatim(&info(front, session.redirect, &arguments[1..]))),
        "command" => introspection::plan(arguments)?,
        "script" => scripts::plan(front, arguments)?,
        "cluster" => cluster::plan(&front.router, arguments)?,
        "multi" | "exec" | "discard" | "watch" | "unwatch" => transaction::plan(session, spec, arguments)?,
        "publish" | "spublish" | "pubsub" | "subscribe" | "psubscribe" | "ssubscribe" | "unsubscribe"
        | "punsubscribe" | "sunsubscribe" => subscriptions::plan(front, session, spec, arguments)?,
        "scan" => Step::Task(Box::new(Task::Scan(key_scan_options(&arguments[1..])?))),
        // Every write that was answered is on a majority.
        "wait" => {
            integer(&arguments[1])?;
            let timeout = integer(&arguments[2])
                .or_else(|_| refuse("ERR timeout is not an integer or out of range"))?;
            if timeout < 0 {
                return refuse("ERR timeout is negative");
            }
            let copies = front.router.least_copies();
            said(|out| out.count((copies / 2 + 1).saturating_sub(1)))
        }
        "time" => {
            let now_ms = front.router.clock_ms();
            said(|out| {
                out.array(2);
                out.bulk((now_ms / 1000).to_string().as_bytes());
                out.bulk((now_ms % 1000 * 1000).to_string().as_bytes());
            })
        }
        "slowlog" => slow_log::plan(front, arguments)?,
        "latency" => server::latency(arguments)?,
        "role" => server::role(front),
        "waitaof" => server::waitaof(front, arguments)?,
        "lolwut" => said(|out| out.verbatim(&format!("Redis ver. {REDIS_VERSION}\n"))),
        "debug" => debug(arguments)?,
        // Every read is as good as one at the leader; there is no other.
        "readonly" | "readwrite" | "asking" => said(Answer::ok),
        _ => return refuse("ERR this command is not offered"),
    };
    Ok((step, false))
}

fn debug(arguments: &[Bytes]) -> Done<Step> {
    match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        // Of this connection; others go on.
        ("sleep", [seconds]) => {
            let time = float(seconds).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            match time {
                Some(time) => Ok(Step::Task(Box::new(Task::Sleep(time)))),
                None => refuse("ERR value is not a valid float"),
            }
        }
        (name, _) => refuse(format!("ERR DEBUG {} is not offered", name.to_uppercase())),
    }
}

fn hello(front: &Front, session: &mut Session, arguments: &[Bytes]) -> Done<Step> {
    let mut protocol = session.protocol;
    let mut rest = &arguments[1..];
    if let [version, more @ ..] = rest {
        protocol = match integer(version) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return refuse("NOPROTO unsupported protocol version"),
            Err(_) => return refuse("ERR Protocol version is not an integer or out of range"),
        };
        rest = more;
    }
    let (mut name, mut credentials) = (None, None);
    loop {
        rest = match rest {
            [] => break,
            [option, value, more @ ..] if is(option, "setname") => {
                name = Some(value);
                more
            }
            [option, user, password, more @ ..] if is(option, "auth") => {
                credentials = Some((user, password));
                more
            }
            [option, ..] => {
                let option = String::from_utf8_lossy(option);
                return refuse(format!("{SYNTAX} in HELLO option '{option}'"));
            }
        };
    }
    if let Some((user, password)) = credentials {
        users::enter(front, session, user, password, "HELLO")?;
    }
    if session.user.is_none() {
        return refuse(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
    }
    if let Some(name) = name {
        session.client.rename(name)?;
    }
    session.protocol = protocol;
    session.client.speaks(protocol);
    let redirect = session.redirect;
    let id = i64::try_from(session.client.id()).unwrap_or(i64::MAX);
    Ok(said(|out| {
        out.map(7);
        let mut text = |key: &str, value: &str| {
            out.bulk(key.as_bytes());
            out.bulk(value.as_bytes());
        };
        // Clients look here for what they can use: they are to think of a single Redis 7.
        text("server", "redis");
        text("version", REDIS_VERSION);
        text("mode", if redirect { "cluster" } else { "standalone" });
        text("role", "master");
        for (key, value) in [("proto", if protocol == Protocol::Resp3 { 3 } else { 2 }), ("id", id)] {
            out.bulk(key.as_bytes());
            out.integer(value);
        }
        out.bulk(b"modules");
        out.array(0);
    }))
}

/// The sections that are asked for, all if none is named.
fn info(front: &Front, redirect: bool, asked: &[Bytes]) -> String {
    let groups = front.router.replicas();
    let (mut keys, mut expires, mut led, mut changes) = (0, 0, 0, 0);
    for (_, group) in &groups {
        group.read_now(|machine| {
            keys += machine.keys().len();
            expires += machine.keys().with_end();
            changes += machine.keys().version();
        });
        led += usize::from(group.is_leader());
    }
    let memory = front.router.memory();
    let (connected, blocked) = front.clients.count();
    let (awaited, minded) = front.clients.awaited_keys();
    let mode = if redirect { "cluster" } else { "standalone" };
    let uptime = front.router.clock_ms().saturating_sub(front.started_ms) / 1000;
    let processors = usage::processor_seconds().map_or_else(String::new, |(user, system)| {
        format!("used_cpu_sys:{system:.6}\r\nused_cpu_user:{user:.6}\r\n")
    });
    let keyspace =
        if keys > 0 { format!("db0:keys={keys},expires={expires},avg_ttl=0\r\n") } else { String::new() };
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nredis_mode:{mode}\r\ntrimaran_version:{}\r\nos:{} {}\r\n\
                 arch_bits:{}\r\nprocess_id:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                std::env::consts::ARCH,
                usize::BITS,
                std::process::id(),
                uptime / 86_400,
            ),
        ),
        (
            "Clients",
            format!(
                "connected_clients:{connected}\r\nmaxclients:{}\r\nblocked_clients:{blocked}\r\n\
                 total_blocking_keys:{awaited}\r\ntotal_blocking_keys_on_nokey:{minded}\r\npubsub_clients:{}\r\n",
                CONNECTIONS_MAX,
                front.clients.subscribers(),
            ),
        ),
        (
            "Memory",
            format!(
                "used_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:{}\r\n",
                memory.used(),
                memory.most(),
                memory.policy().name()
            ),
        ),
        ("Persistence", format!("loading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:{changes}\r\n")),
        (
            "Replication",
            format!(
                "role:master\r\nconnected_slaves:0\r\nmaster_repl_offset:{changes}\r\ntrimaran_partitions:{}\r\ntrimaran_partitions_led:{led}\r\n",
                groups.len()
            ),
        ),
        (
            "Stats",
            format!("evicted_keys:{}\r\n", memory.evicted())
                + &subscriptions::statistics(front)
                + &tracking::statistics(front)
                + &front.access_log.lines(),
        ),
        ("CPU", processors),
        ("Commandstats", front.statistics.lines()),
        ("Cluster", format!("cluster_enabled:{}\r\ncluster_slots:{SLOTS}\r\n", u8::from(redirect))),
        ("Keyspace", keyspace),
    ];
    let says = |words: &[&str]| asked.iter().any(|section| words.iter().any(|word| is(section, word)));
    let all = says(&["all", "everything"]);
    let default = all || asked.is_empty() || says(&["default"]);
    let is_asked = |name: &str| match name {
        "Commandstats" => all || says(&[name]),
        _ => default || says(&[name]),
    };
    let told = sections.iter().filter(|(name, _)| is_asked(name));
    told.map(|(name, text)| format!("# {name}\r\n{text}")).collect::<Vec<_>>().join("\r\n")
}
