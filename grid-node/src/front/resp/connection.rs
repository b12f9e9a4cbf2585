//! Commands about the connection and the node: they need no partition and are answered at once.

use bytes::BytesMut;

use super::cluster;
use super::command::{NOT_OFFERED, Planned, Refusal, SYNTAX, Session, integer, lower, refuse, said};
use super::reply::{self, Protocol};
use super::table::{Spec, TABLE};
use crate::router::Router;

/// Commands that need no partition.
pub(super) fn plan(
    session: &mut Session,
    router: &Router,
    spec: &'static Spec,
    arguments: &[bytes::Bytes],
) -> Result<Planned, Refusal> {
    Ok(match spec.name {
        "ping" => match arguments {
            [_] => said(session, |out| reply::simple(out, "PONG")),
            [_, text] => said(session, |out| reply::bulk(out, text)),
            _ => return refuse("ERR wrong number of arguments for 'ping' command"),
        },
        "echo" => said(session, |out| reply::bulk(out, &arguments[1])),
        "quit" => said(session, |out| reply::simple(out, "OK")).and_close(),
        "reset" => {
            *session = Session::new(session.front, session.id, session.redirect);
            said(session, |out| reply::simple(out, "RESET"))
        }
        "select" => match integer(&arguments[1])? {
            0 => said(session, |out| reply::simple(out, "OK")),
            _ => return refuse("ERR DB index is out of range: there is database 0 only"),
        },
        "hello" => return plan_hello(session, arguments),
        "client" => return plan_client(session, arguments),
        "config" => match lower(&arguments[1]).as_str() {
            "get" => said(session, |out| reply::map(out, session.protocol, 0)),
            _ => return refuse("ERR options are flags of the node; see trimaran grid-node --help"),
        },
        "dbsize" => {
            let keys: usize = router
                .replicas()
                .iter()
                .map(|(_, group)| group.read_now(|machine| machine.keys().len()))
                .sum();
            said(session, |out| reply::integer(out, keys as i64))
        }
        "info" => said(session, |out| reply::bulk(out, info(router, session.redirect).as_bytes())),
        "command" => return plan_command(session, arguments),
        "cluster" => return cluster::plan(session, router, arguments),
        // Every read is as good as one at the leader; there is no other.
        "readonly" | "readwrite" | "asking" => said(session, |out| reply::simple(out, "OK")),
        _ => return refuse(NOT_OFFERED),
    })
}

fn plan_hello(session: &mut Session, arguments: &[bytes::Bytes]) -> Result<Planned, Refusal> {
    let mut rest = arguments[1..].iter();
    if let Some(version) = rest.next() {
        session.protocol = match &version[..] {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            _ => return refuse("NOPROTO unsupported protocol version"),
        };
    }
    while let Some(option) = rest.next() {
        match lower(option).as_str() {
            "setname" => session.name = rest.next().cloned().unwrap_or_default(),
            "auth" => return refuse("ERR AUTH is not offered: this node has no users"),
            _ => return refuse(SYNTAX),
        }
    }
    let (protocol, redirect) = (session.protocol, session.redirect);
    let id = i64::try_from(session.id).unwrap_or(i64::MAX);
    Ok(said(session, |out| {
        reply::map(out, protocol, 7);
        let mut text = |key: &str, value: &str| {
            reply::bulk(out, key.as_bytes());
            reply::bulk(out, value.as_bytes());
        };
        // Clients look here for what they can use: they are to think of a single Redis 7.
        text("server", "redis");
        text("version", REDIS_VERSION);
        text("mode", if redirect { "cluster" } else { "standalone" });
        text("role", "master");
        for (key, value) in [("proto", if protocol == Protocol::Resp3 { 3 } else { 2 }), ("id", id)] {
            reply::bulk(out, key.as_bytes());
            reply::integer(out, value);
        }
        reply::bulk(out, b"modules");
        reply::array(out, 0);
    }))
}

/// The Redis whose commands these are.
const REDIS_VERSION: &str = "7.4.0";

fn plan_client(session: &mut Session, arguments: &[bytes::Bytes]) -> Result<Planned, Refusal> {
    Ok(match (lower(&arguments[1]).as_str(), arguments.get(2)) {
        ("setname", Some(name)) => {
            session.name = name.clone();
            said(session, |out| reply::simple(out, "OK"))
        }
        ("getname", None) => said(session, |out| reply::bulk(out, &session.name)),
        ("setinfo", Some(_)) => said(session, |out| reply::simple(out, "OK")),
        ("id", None) => {
            said(session, |out| reply::integer(out, i64::try_from(session.id).unwrap_or(i64::MAX)))
        }
        _ => return refuse("ERR unknown subcommand or wrong number of arguments of 'client'"),
    })
}

fn plan_command(session: &Session, arguments: &[bytes::Bytes]) -> Result<Planned, Refusal> {
    let named = || -> Vec<Option<&'static Spec>> {
        let find = |name: &bytes::Bytes| {
            let name = lower(name);
            TABLE.iter().find(|spec| spec.name == name)
        };
        if arguments.len() > 2 {
            arguments[2..].iter().map(find).collect()
        } else {
            TABLE.iter().map(Some).collect()
        }
    };
    let protocol = session.protocol;
    Ok(match arguments.get(1).map(|sub| lower(sub)).as_deref() {
        None => said(session, |out| {
            reply::array(out, TABLE.len());
            for spec in TABLE {
                describe(out, spec);
            }
        }),
        Some("count") => said(session, |out| reply::integer(out, TABLE.len() as i64)),
        Some("info") => said(session, |out| {
            let named = named();
            reply::array(out, named.len());
            for spec in named {
                match spec {
                    Some(spec) => describe(out, spec),
                    None => reply::null(out, protocol),
                }
            }
        }),
        Some("docs") => said(session, |out| {
            let named: Vec<&Spec> = named().into_iter().flatten().collect();
            reply::map(out, protocol, named.len());
            for spec in named {
                reply::bulk(out, spec.name.as_bytes());
                reply::map(out, protocol, 2);
                for text in ["summary", spec.summary, "group", "generic"] {
                    reply::bulk(out, text.as_bytes());
                }
            }
        }),
        Some("list") => said(session, |out| {
            reply::array(out, TABLE.len());
            for spec in TABLE {
                reply::bulk(out, spec.name.as_bytes());
            }
        }),
        Some(_) => return refuse("ERR unknown subcommand of 'command'"),
    })
}

fn describe(out: &mut BytesMut, spec: &Spec) {
    reply::array(out, 10);
    reply::bulk(out, spec.name.as_bytes());
    reply::integer(out, spec.arity);
    reply::array(out, spec.flags.len());
    for flag in spec.flags {
        reply::simple(out, flag);
    }
    for position in [spec.keys.0, spec.keys.1, spec.keys.2] {
        reply::integer(out, position);
    }
    // ACL categories, tips, key specifications, subcommands.
    for _ in 0..4 {
        reply::array(out, 0);
    }
}

fn info(router: &Router, redirect: bool) -> String {
    let groups = router.replicas();
    let (mut keys, mut bytes, mut led) = (0, 0, 0);
    for (_, group) in &groups {
        group.read_now(|machine| {
            keys += machine.keys().len();
            bytes += machine.keys().bytes();
        });
        led += usize::from(group.is_leader());
    }
    format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:{}\r\ntrimaran_version:{}\r\n\
         # Memory\r\nused_memory:{bytes}\r\n\
         # Replication\r\nrole:master\r\ntrimaran_partitions:{}\r\ntrimaran_partitions_led:{led}\r\n\
         # Cluster\r\ncluster_enabled:{}\r\n\
         # Keyspace\r\ndb0:keys={keys},expires=0,avg_ttl=0\r\n",
        if redirect { "cluster" } else { "standalone" },
        env!("CARGO_PKG_VERSION"),
        groups.len(),
        u8::from(redirect),
    )
}
