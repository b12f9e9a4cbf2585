//! ACL, AUTH: who a connection is, and what is refused to whom.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use trimaran_cluster::member::Defined;
use trimaran_proto::state::grid::Actor;

use super::Front;
use super::plan::{Session, Step, said};
use super::task::Task;
use super::typed::NOT_KNOWN_YET;
use crate::access::users::Users;
use crate::access::{DEFAULT, Selector, User, join};
use crate::command::arguments::{integer, is, lower};
use crate::command::reply::Answer;
use crate::command::table::{CATEGORIES, LIBRARIES_FORMAT, Spec, TABLE, find};
use crate::command::{Done, Refusal, refuse};
use crate::limits::{
    ACCESS_LOG_ENTRIES_DEFAULT, ACCESS_LOG_ENTRIES_MAX, REQUEST_TIMEOUT, USER_RULES_BYTES_MAX, USERS_MAX,
};

/// Said of a name and a password that do not belong together.
pub(super) const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// How often a change of a user is tried that others change at the same time.
const ATTEMPTS: usize = 10;

/// An entry that is like another one which is not older counts with it.
const SAME_FOR_MS: u64 = 60_000;

/// What was refused lately, newest first.
#[derive(Debug)]
pub(super) struct AccessLog {
    entries: Mutex<VecDeque<Entry>>,
    most: AtomicU64,
    next: AtomicU64,
    /// How often it was a password, a command, a key, a channel.
    counts: [AtomicU64; 4],
}

impl Default for AccessLog {
    fn default() -> Self {
        let most = AtomicU64::new(ACCESS_LOG_ENTRIES_DEFAULT);
        Self { entries: Mutex::default(), most, next: AtomicU64::new(0), counts: Default::default() }
    }
}

#[derive(Debug)]
struct Entry {
    count: u64,
    reason: &'static str,
    context: &'static str,
    object: Bytes,
    user: String,
    client: String,
    id: u64,
    created_ms: u64,
    updated_ms: u64,
}

/// The reasons, in the order in which they are counted.
const REASONS: [&str; 4] = ["auth", "command", "key", "channel"];

impl AccessLog {
    fn note(
        &self,
        front: &Front,
        session: &Session,
        context: &'static str,
        (reason, object): (&'static str, &[u8]),
        user: &str,
    ) {
        if let Some(place) = REASONS.iter().position(|known| *known == reason) {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
        let now_ms = front.router.clock_ms();
        let client = session.client.line(now_ms).trim_end().to_owned();
        let mut entries = self.entries.lock();
        let is_same = |entry: &&mut Entry| {
            (entry.reason, entry.context) == (reason, context)
                && entry.object == object
                && entry.user == user
                && now_ms.saturating_sub(entry.updated_ms) <= SAME_FOR_MS
        };
        if let Some(entry) = entries.iter_mut().find(is_same) {
            entry.count += 1;
            entry.updated_ms = now_ms;
            entry.client = client;
            return;
        }
        entries.push_front(Entry {
            count: 1,
            reason,
            context,
            object: Bytes::copy_from_slice(object),
            user: user.to_owned(),
            client,
            id: self.next.fetch_add(1, Ordering::Relaxed),
            created_ms: now_ms,
            updated_ms: now_ms,
        });
        entries.truncate(usize::try_from(self.most.load(Ordering::Relaxed)).unwrap_or(usize::MAX));
    }

    /// How many entries are kept.
    pub(super) fn keep(&self, most: u64) {
        self.most.store(most.min(ACCESS_LOG_ENTRIES_MAX), Ordering::Relaxed);
    }

    /// As INFO has it.
    pub(super) fn lines(&self) -> String {
        let line = |(reason, count): (&str, &AtomicU64)| {
            let reason = if reason == "command" { "cmd" } else { reason };
            format!("acl_access_denied_{reason}:{}\r\n", count.load(Ordering::Relaxed))
        };
        REASONS.into_iter().zip(&self.counts).map(line).collect()
    }

    fn say(&self, most: usize, now_ms: u64) -> Step {
        let entries = self.entries.lock();
        said(|out| {
            let told = entries.iter().take(most);
            out.array(told.len());
            for entry in told {
                out.map(10);
                let number = |out: &mut Answer, name: &str, value: u64| {
                    out.bulk(name.as_bytes());
                    out.integer(i64::try_from(value).unwrap_or(i64::MAX));
                };
                number(out, "count", entry.count);
                for (name, text) in [
                    ("reason", entry.reason.as_bytes()),
                    ("context", entry.context.as_bytes()),
                    ("object", &entry.object),
                    ("username", entry.user.as_bytes()),
                ] {
                    out.bulk(name.as_bytes());
                    out.bulk(text);
                }
                out.bulk(b"age-seconds");
                out.double(now_ms.saturating_sub(entry.created_ms) as f64 / 1000.0);
                out.bulk(b"client-info");
                out.bulk(entry.client.as_bytes());
                number(out, "entry-id", entry.id);
                number(out, "timestamp-created", entry.created_ms);
                number(out, "timestamp-last-updated", entry.updated_ms);
            }
        })
    }
}

/// Finds out again who a connection is, if users have changed. False if it is nobody any more.
pub(super) fn refresh(front: &Front, session: &mut Session) -> bool {
    let version = front.users.version();
    if session.users_version == version {
        return true;
    }
    if let Some(user) = &session.user {
        let Some((_, user)) = front.users.get(&user.name) else { return false };
        session.user = Some(user);
    }
    session.users_version = version;
    true
}

/// True if it may still be told what it has subscribed to.
pub(super) fn may_hear(session: &Session) -> bool {
    let (Some(user), Some(subscriber)) = (&session.user, &session.subscriber) else { return true };
    subscriber.topics().all(|(kind, name)| user.may_hear(name, *kind == crate::pubsub::Kind::Pattern))
}

/// Where something is refused: as a command of its own, or within a transaction.
pub(super) const TOPLEVEL: &str = "toplevel";
/// See [`TOPLEVEL`].
pub(super) const MULTI: &str = "multi";

/// Refuses what the user of a connection may not do.
pub(super) fn must_be_allowed(
    front: &Front,
    session: &Session,
    context: &'static str,
    spec: &'static Spec,
    arguments: &[Bytes],
) -> Done {
    let Some(user) = &session.user else {
        return if spec.is("no_auth") { Ok(()) } else { refuse("NOAUTH Authentication required.") };
    };
    if user.is_unrestricted() {
        return Ok(());
    }
    if let Err(denied) = user.may(spec, arguments) {
        front.access_log.note(front, session, context, (denied.reason(), denied.object()), &user.name);
        return refuse(denied.refusal(&user.name));
    }
    // Older nodes do not know that a script is somebody's.
    if spec.group == "scripting" && front.router.format() < LIBRARIES_FORMAT {
        return refuse(NOT_KNOWN_YET);
    }
    // They may be about any key.
    if ["sort", "sort_ro"].contains(&spec.name) && !user.may_read_all(spec) {
        let mut rest = arguments.iter().skip(2);
        while let Some(word) = rest.next() {
            if is(word, "by") || is(word, "get") && rest.next().is_none_or(|pattern| pattern != "#") {
                let option = if is(word, "by") { "BY" } else { "GET" };
                return refuse(format!(
                    "ERR {option} option of SORT denied due to insufficient ACL permissions."
                ));
            }
        }
    }
    Ok(())
}

/// Why a command that has waited is not carried out any more, if its user may not do it by now.
pub(super) fn refused_by_now(
    front: &Front,
    session: &Session,
    spec: &'static Spec,
    arguments: &[Bytes],
) -> Option<Refusal> {
    let held = session.user.as_ref()?;
    let now = front.users.get(&held.name).map(|(_, user)| user);
    let user = now.unwrap_or_else(|| Arc::new(User::new(&held.name)));
    let denied = user.may(spec, arguments).err()?;
    front.access_log.note(front, session, TOPLEVEL, (denied.reason(), denied.object()), &user.name);
    Some(Refusal::new(denied.refusal(&user.name)))
}

/// Who a script runs as, if it may not do everything.
pub(super) fn actor(session: &Session, spec: &Spec) -> Option<Actor> {
    let user = session.user.as_ref().filter(|user| spec.group == "scripting" && !user.is_unrestricted())?;
    Some(Actor { name: user.name.clone(), rules: user.permissions() })
}

/// Makes a connection that of a user.
pub(super) fn enter(front: &Front, session: &mut Session, name: &[u8], password: &[u8], word: &str) -> Done {
    let name = String::from_utf8_lossy(name);
    match front.users.get(&name) {
        Some((_, user)) if user.is_password(password) => {
            session.client.is_user(&user.name);
            session.user = Some(user);
            Ok(())
        }
        _ => {
            front.access_log.note(front, session, TOPLEVEL, ("auth", word.as_bytes()), &name);
            refuse(WRONG)
        }
    }
}

/// The same for another front; why not, if it is refused.
pub(crate) fn enter_by(
    front: &Front,
    session: &mut Session,
    name: &str,
    password: &str,
) -> Result<(), String> {
    let entered = enter(front, session, name.as_bytes(), password.as_bytes(), "AUTH");
    entered.map_err(|refusal| refusal.text().to_owned())
}

/// AUTH.
pub(super) fn auth(front: &Front, session: &mut Session, arguments: &[Bytes]) -> Done<Step> {
    match arguments {
        [_, password] => {
            if front.users.at_first().is_some() {
                return refuse(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                );
            }
            enter(front, session, DEFAULT.as_bytes(), password, "AUTH")?;
        }
        [_, name, password] => enter(front, session, name, password, "AUTH")?,
        _ => return refuse("ERR syntax error"),
    }
    Ok(said(Answer::ok))
}

/// A change of users.
#[derive(Debug)]
pub(super) enum Change {
    /// Changes or makes one by rules.
    Set { name: String, rules: Vec<Bytes> },
    /// Removes these.
    Delete(Vec<String>),
}

/// Changes users, and returns when this node knows; how many there were.
pub(super) async fn change(front: &Front, change: Change) -> Result<Option<usize>, Refusal> {
    match change {
        Change::Set { name, rules } => {
            for _ in 0..ATTEMPTS {
                let (revision, user) =
                    front.users.get(&name).map_or_else(|| (0, None), |(at, user)| (at, Some(user)));
                if user.is_none() && front.users.all().len() >= USERS_MAX {
                    return Err(Refusal::new(format!("ERR the cluster has USERS_MAX = {USERS_MAX} users")));
                }
                let mut user = user.map_or_else(|| User::new(&name), |user| (*user).clone());
                user.change(&rules).map_err(|(rule, why)| {
                    Refusal::new(format!("ERR Error in ACL SETUSER modifier '{rule}': {why}"))
                })?;
                let value = user.rules();
                if value.len() > USER_RULES_BYTES_MAX {
                    return Err(Refusal::new(format!(
                        "ERR {} bytes of rules exceed USER_RULES_BYTES_MAX = {USER_RULES_BYTES_MAX}",
                        value.len()
                    )));
                }
                if define(front, &name, Some(value), revision).await? {
                    return Ok(None);
                }
            }
            Err(Refusal::new("TRYAGAIN the user is being changed by others"))
        }
        Change::Delete(names) => {
            let mut removed = 0;
            for name in names {
                let Some((revision, _)) = front.users.get(&name) else { continue };
                removed += usize::from(define(front, &name, None, revision).await?);
            }
            Ok(Some(removed))
        }
    }
}

/// False if another one was faster.
async fn define(front: &Front, name: &str, value: Option<String>, revision: u64) -> Result<bool, Refusal> {
    let (definition, bytes) = (Users::definition(name), value.clone().map(Bytes::from));
    let cluster = front.router.cluster();
    let defined = cluster.define_within(&definition, bytes, revision, REQUEST_TIMEOUT).await;
    let defined = defined
        .map_err(|error| Refusal::new(format!("TRYAGAIN the user may not be changed yet: {error}")))?;
    front.users.heard(&cluster.meta().borrow());
    Ok(match defined {
        Defined::Done(_) => true,
        // The answer to an attempt of its own may have been lost.
        Defined::Changed(_) => front.users.defined(name).map(|user| user.rules()) == value,
    })
}

/// ACL.
pub(super) fn plan(front: &Front, session: &Session, arguments: &[Bytes]) -> Done<Step> {
    let sub = lower(&arguments[1]);
    let texts = |rest: &[Bytes]| -> Vec<String> {
        rest.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    };
    Ok(match (sub.as_str(), &arguments[2..]) {
        ("whoami", []) => {
            let name = session.user.as_ref().map_or(DEFAULT, |user| &user.name);
            said(|out| out.bulk(name.as_bytes()))
        }
        ("users", []) => {
            let users = front.users.all();
            said(|out| {
                out.array(users.len());
                users.iter().for_each(|user| out.bulk(user.name.as_bytes()));
            })
        }
        ("list", []) => {
            let users = front.users.all();
            said(|out| {
                out.array(users.len());
                users
                    .iter()
                    .for_each(|user| out.bulk(format!("user {} {}", user.name, user.rules()).as_bytes()));
            })
        }
        ("getuser", [name]) => match front.users.get(&String::from_utf8_lossy(name)) {
            Some((_, user)) => said(|out| tell(out, &user)),
            None => said(Answer::null_array),
        },
        ("setuser", [name, rules @ ..]) => {
            if name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0) {
                return refuse("ERR Usernames can't contain spaces or null characters");
            }
            let rules = join(texts(rules)).map_err(|open| {
                Refusal::new(format!("ERR Unmatched parenthesis in acl selector starting at '{open}'."))
            })?;
            let rules: Vec<Bytes> = rules.into_iter().map(Bytes::from).collect();
            let name = String::from_utf8_lossy(name).into_owned();
            Step::Task(Box::new(Task::Users(Change::Set { name, rules })))
        }
        ("deluser", names) if !names.is_empty() => {
            if names.iter().any(|name| name == DEFAULT) {
                return refuse("ERR The 'default' user cannot be removed");
            }
            Step::Task(Box::new(Task::Users(Change::Delete(texts(names)))))
        }
        ("cat", []) => said(|out| {
            out.array(CATEGORIES.len());
            CATEGORIES.iter().for_each(|category| out.bulk(category.as_bytes()));
        }),
        ("cat", [category]) => {
            let name = lower(category);
            if !CATEGORIES.contains(&name.as_str()) {
                return refuse(format!("ERR Unknown category '{}'", String::from_utf8_lossy(category)));
            }
            let category = format!("@{name}");
            let found: Vec<&Spec> =
                TABLE.iter().filter(|spec| spec.categories().contains(&category.as_str())).collect();
            let names = found.into_iter().flat_map(|spec| {
                let of_it = spec.subcommands().map(|sub| format!("{}|{sub}", spec.name));
                std::iter::once(spec.name.to_owned()).chain(of_it)
            });
            said(|out| out.counted(names, |out, name| out.bulk(name.as_bytes())))
        }
        ("genpass", []) => generate(front, 256),
        ("genpass", [bits]) => match integer(bits).ok().and_then(|bits| usize::try_from(bits).ok()) {
            Some(bits @ 1..=4096) => generate(front, bits),
            _ => {
                return refuse(
                    "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
                     4096",
                );
            }
        },
        ("dryrun", [name, command, ..]) => dry_run(front, name, command, &arguments[3..])?,
        ("log", []) => front.access_log.say(10, front.router.clock_ms()),
        ("log", [word]) if is(word, "reset") => {
            front.access_log.entries.lock().clear();
            said(Answer::ok)
        }
        ("log", [count]) => {
            let count = usize::try_from(integer(count)?).unwrap_or(0);
            front.access_log.say(count, front.router.clock_ms())
        }
        ("load" | "save", []) => {
            return refuse(
                "ERR This Redis instance is not configured to use an ACL file. The cluster keeps its users itself: a change \
                 is there to stay once it is answered.",
            );
        }
        _ => {
            return refuse(format!(
                "ERR unknown subcommand or wrong number of arguments for '{}'. Try ACL HELP.",
                String::from_utf8_lossy(&arguments[1])
            ));
        }
    })
}

fn generate(front: &Front, bits: usize) -> Step {
    let digits = bits.div_ceil(4);
    let mut text = String::new();
    while text.len() < digits {
        text.push_str(&format!("{:016x}", front.secret()));
    }
    text.truncate(digits);
    said(|out| out.bulk(text.as_bytes()))
}

fn dry_run(front: &Front, name: &Bytes, command: &Bytes, arguments: &[Bytes]) -> Done<Step> {
    let name = String::from_utf8_lossy(name);
    let Some((_, user)) = front.users.get(&name) else {
        return refuse(format!("ERR User '{name}' not found"));
    };
    let Some(spec) = find(command) else {
        return refuse(format!("ERR Command '{}' not found", String::from_utf8_lossy(command)));
    };
    if !spec.takes(arguments.len()) {
        return refuse(format!("ERR wrong number of arguments for '{}' command", spec.name));
    }
    Ok(match user.may(spec, arguments) {
        Ok(()) => said(Answer::ok),
        Err(denied) => said(|out| out.bulk(denied.told(&name).as_bytes())),
    })
}

fn tell(out: &mut Answer, user: &User) {
    out.map(6);
    out.bulk(b"flags");
    let flags = user.flags();
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    out.bulk(b"passwords");
    out.array(user.passwords.len());
    user.passwords.iter().for_each(|password| out.bulk(password.as_bytes()));
    tell_selector(out, &user.root);
    out.bulk(b"selectors");
    out.array(user.selectors.len());
    for selector in &user.selectors {
        out.map(3);
        tell_selector(out, selector);
    }
}

fn tell_selector(out: &mut Answer, selector: &Selector) {
    for (name, rules) in [
        ("commands", selector.command_rules()),
        ("keys", selector.key_rules()),
        ("channels", selector.channel_rules()),
    ] {
        out.bulk(name.as_bytes());
        out.bulk(rules.as_bytes());
    }
}
