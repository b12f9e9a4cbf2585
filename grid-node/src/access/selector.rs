//! What a user may do: commands, keys, channels.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::BadRule;
use super::keys::accesses;
use crate::command::matches;
use crate::command::table::{Spec, TABLE, find};

/// What is not allowed; of two the greater one was nearer to being allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// The command.
    Command(String),
    /// This key, the so-manieth.
    Key(usize, Bytes),
    /// This channel, the so-manieth.
    Channel(usize, Bytes),
}

impl Denied {
    /// In one word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Key(..) => "key",
            Self::Channel(..) => "channel",
        }
    }

    /// What it was.
    pub fn object(&self) -> &[u8] {
        match self {
            Self::Command(name) => name.as_bytes(),
            Self::Key(_, name) | Self::Channel(_, name) => name,
        }
    }

    /// As Redis refuses it.
    pub fn refusal(&self, user: &str) -> String {
        match self {
            Self::Command(name) => {
                format!("NOPERM User {user} has no permissions to run the '{name}' command")
            }
            Self::Key(..) => "NOPERM No permissions to access a key".to_owned(),
            Self::Channel(..) => "NOPERM No permissions to access a channel".to_owned(),
        }
    }

    /// As ACL DRYRUN tells it.
    pub fn told(&self, user: &str) -> String {
        match self {
            Self::Command(name) => format!("User {user} has no permissions to run the '{name}' command"),
            Self::Key(_, key) => {
                format!("User {user} has no permissions to access the '{}' key", String::from_utf8_lossy(key))
            }
            Self::Channel(_, channel) => {
                let channel = String::from_utf8_lossy(channel);
                format!("User {user} has no permissions to access the '{channel}' channel")
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyPattern {
    reads: bool,
    writes: bool,
    pattern: String,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Commands that later releases may add are allowed, too: it began with all.
    begins_with_all: bool,
    /// The rules about commands, behind that.
    command_rules: Vec<String>,
    /// By their place in the table.
    allowed: BTreeMap<usize, bool>,
    /// Subcommands that are not as their command.
    subcommands: BTreeMap<(usize, String), bool>,
    /// Commands with a first argument that is allowed though they are not.
    first_arguments: BTreeMap<usize, Vec<String>>,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<String>,
}

fn place(spec: &'static Spec) -> usize {
    TABLE.element_offset(spec).unwrap_or(TABLE.len())
}

impl Selector {
    /// One that allows everything.
    pub fn everything() -> Self {
        Self { begins_with_all: true, all_keys: true, all_channels: true, ..Self::default() }
    }

    /// True if it does.
    pub fn is_everything(&self) -> bool {
        self.begins_with_all && self.command_rules.is_empty() && self.all_keys && self.all_channels
    }

    /// Changes it by a rule.
    pub(super) fn apply(&mut self, rule: &str) -> Result<(), BadRule> {
        match rule.to_ascii_lowercase().as_str() {
            "allkeys" | "~*" => {
                self.all_keys = true;
                self.keys.clear();
            }
            "resetkeys" => {
                self.all_keys = false;
                self.keys.clear();
            }
            "allchannels" | "&*" => {
                self.all_channels = true;
                self.channels.clear();
            }
            "resetchannels" => {
                self.all_channels = false;
                self.channels.clear();
            }
            "allcommands" | "+@all" => self.all_commands(true),
            "nocommands" | "-@all" => self.all_commands(false),
            _ => match rule.as_bytes().first() {
                Some(b'~') => self.add_keys(true, true, &rule[1..])?,
                Some(b'%') => {
                    let (letters, pattern) = rule[1..].split_once('~').ok_or(BadRule::Syntax)?;
                    let letters = letters.to_ascii_uppercase();
                    if letters.is_empty() || letters.bytes().any(|letter| letter != b'R' && letter != b'W') {
                        return Err(BadRule::Syntax);
                    }
                    self.add_keys(letters.contains('R'), letters.contains('W'), pattern)?;
                }
                Some(b'&') if self.all_channels => return Err(BadRule::AfterAllChannels),
                Some(b'&') => {
                    let channel = rule[1..].to_owned();
                    if channel.contains([' ', '\0']) {
                        return Err(BadRule::Syntax);
                    }
                    if !self.channels.contains(&channel) {
                        self.channels.push(channel);
                    }
                }
                Some(b'+') => self.command(&rule[1..].to_ascii_lowercase(), true)?,
                Some(b'-') => self.command(&rule[1..].to_ascii_lowercase(), false)?,
                _ => return Err(BadRule::Syntax),
            },
        }
        Ok(())
    }

    fn all_commands(&mut self, allowed: bool) {
        self.begins_with_all = allowed;
        self.command_rules.clear();
        self.allowed.clear();
        self.subcommands.clear();
        self.first_arguments.clear();
    }

    fn add_keys(&mut self, reads: bool, writes: bool, pattern: &str) -> Result<(), BadRule> {
        if self.all_keys {
            return Err(BadRule::AfterAllKeys);
        }
        if pattern.contains([' ', '\0']) {
            return Err(BadRule::Syntax);
        }
        match self.keys.iter_mut().find(|held| held.pattern == pattern) {
            Some(held) => {
                held.reads |= reads;
                held.writes |= writes;
            }
            None => self.keys.push(KeyPattern { reads, writes, pattern: pattern.to_owned() }),
        }
        Ok(())
    }

    fn set(&mut self, spec: &'static Spec, allowed: bool) {
        let place = place(spec);
        self.allowed.insert(place, allowed);
        self.subcommands.retain(|(held, _), _| *held != place);
        self.first_arguments.remove(&place);
    }

    /// `@category`, `command`, `command|subcommand`.
    fn command(&mut self, name: &str, allowed: bool) -> Result<(), BadRule> {
        if let Some(category) = name.strip_prefix('@') {
            if !crate::command::table::CATEGORIES.contains(&category) {
                return Err(BadRule::Unknown);
            }
            let category = format!("@{category}");
            for spec in TABLE.iter().filter(|spec| spec.categories().contains(&category.as_str())) {
                self.set(spec, allowed);
            }
        } else if let Some((command, sub)) = name.split_once('|') {
            let spec = find(command.as_bytes()).ok_or(BadRule::Unknown)?;
            let place = place(spec);
            if spec.has_subcommands() {
                if sub.contains('|') {
                    return Err(BadRule::FirstArgument);
                }
                if !spec.subcommands().any(|known| known == sub) {
                    return Err(BadRule::Unknown);
                }
                self.subcommands.insert((place, sub.to_owned()), allowed);
            } else {
                // Only what is allowed may be said so exactly, as of old.
                if sub.is_empty() || sub.contains('|') || !allowed {
                    return Err(BadRule::Unknown);
                }
                self.first_arguments.entry(place).or_default().push(sub.to_owned());
            }
        } else {
            self.set(find(name.as_bytes()).ok_or(BadRule::Unknown)?, allowed);
        }
        // What this rule is about is not said by others any more.
        let is_of = |held: &String| {
            let held = &held[1..];
            held == name || held.split_once('|').is_some_and(|(command, _)| command == name)
        };
        self.command_rules.retain(|held| !is_of(held));
        self.command_rules.push(format!("{}{name}", if allowed { '+' } else { '-' }));
        Ok(())
    }

    fn runs(&self, spec: &'static Spec, arguments: &[Bytes]) -> bool {
        let place = place(spec);
        let first = arguments.get(1).map(|first| String::from_utf8_lossy(first).to_ascii_lowercase());
        let of_command = *self.allowed.get(&place).unwrap_or(&self.begins_with_all);
        let Some(first) = first else { return of_command };
        if let Some(of_subcommand) = self.subcommands.get(&(place, first.clone())) {
            return *of_subcommand;
        }
        of_command || self.first_arguments.get(&place).is_some_and(|allowed| allowed.contains(&first))
    }

    fn uses(&self, key: &[u8], (reads, writes): (bool, bool)) -> bool {
        let is_enough = |held: &KeyPattern| (held.reads || !reads) && (held.writes || !writes);
        self.all_keys || self.keys.iter().any(|held| is_enough(held) && matches(held.pattern.as_bytes(), key))
    }

    pub(super) fn hears(&self, name: &[u8], is_pattern: bool) -> bool {
        let is_it = |held: &String| {
            if is_pattern { held.as_bytes() == name } else { matches(held.as_bytes(), name) }
        };
        self.all_channels || self.channels.iter().any(is_it)
    }

    pub(super) fn may_read_all(&self, spec: &Spec) -> bool {
        let runs = find(spec.name.as_bytes()).is_some_and(|spec| self.runs(spec, &[]));
        let is_all = |held: &KeyPattern| held.reads && held.pattern == "*";
        runs && (self.all_keys || self.keys.iter().any(is_all))
    }

    pub(super) fn may(&self, spec: &Spec, arguments: &[Bytes]) -> Result<(), Denied> {
        let Some(spec) = find(spec.name.as_bytes()) else { return Ok(()) };
        // Who is not known must be able to say who it is.
        if !spec.is("no_auth") && !self.runs(spec, arguments) {
            let sub = arguments.get(1).map(|sub| String::from_utf8_lossy(sub).to_ascii_lowercase());
            let sub =
                sub.filter(|sub| spec.has_subcommands() && spec.subcommands().any(|known| known == *sub));
            let name = spec.name;
            return Err(Denied::Command(sub.map_or_else(|| name.to_owned(), |sub| format!("{name}|{sub}"))));
        }
        if spec.group == "pubsub" {
            return self.may_use_channels(spec, arguments);
        }
        for (at, key) in spec.keys(arguments).enumerate() {
            if !self.uses(key, accesses(spec, arguments, at)) {
                return Err(Denied::Key(at, key.clone()));
            }
        }
        Ok(())
    }

    fn may_use_channels(&self, spec: &Spec, arguments: &[Bytes]) -> Result<(), Denied> {
        let names = match spec.name {
            "publish" | "spublish" => &arguments[1..2],
            "subscribe" | "ssubscribe" | "psubscribe" => &arguments[1..],
            _ => &[],
        };
        let is_pattern = spec.name == "psubscribe";
        match names.iter().enumerate().find(|(_, name)| !self.hears(name, is_pattern)) {
            Some((at, name)) => Err(Denied::Channel(at, name.clone())),
            None => Ok(()),
        }
    }

    /// The rules about commands.
    pub fn command_rules(&self) -> String {
        let first = if self.begins_with_all { "+@all" } else { "-@all" };
        std::iter::once(first)
            .chain(self.command_rules.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The rules about keys.
    pub fn key_rules(&self) -> String {
        if self.all_keys {
            return "~*".to_owned();
        }
        let rule = |held: &KeyPattern| match (held.reads, held.writes) {
            (true, false) => format!("%R~{}", held.pattern),
            (false, true) => format!("%W~{}", held.pattern),
            _ => format!("~{}", held.pattern),
        };
        self.keys.iter().map(rule).collect::<Vec<_>>().join(" ")
    }

    /// The rules about channels.
    pub fn channel_rules(&self) -> String {
        if self.all_channels {
            return "&*".to_owned();
        }
        self.channels.iter().map(|channel| format!("&{channel}")).collect::<Vec<_>>().join(" ")
    }

    /// All of them.
    pub(super) fn rules(&self) -> String {
        let mut rules = vec![self.key_rules()];
        if !self.all_channels {
            rules.push("resetchannels".to_owned());
        }
        rules.extend([self.channel_rules(), self.command_rules()]);
        rules.retain(|rule| !rule.is_empty());
        rules.join(" ")
    }
}
