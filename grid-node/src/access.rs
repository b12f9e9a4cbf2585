//! Who may do what: users with passwords, and the commands, keys and channels that each may use. Pure: which users there are
//! is agreed on by the cluster ([`users`]), who asks is the front's. Source: "ACL" in the documentation of Redis, `acl.c`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::command::table::Spec;

pub mod selector;
pub mod users;

mod keys;

pub use selector::{Denied, Selector};

/// The user that a connection is at first.
pub const DEFAULT: &str = "default";

/// Why a rule is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// It cannot be read.
    #[error("Syntax error")]
    Syntax,
    /// There is no such command.
    #[error("Unknown command or category name in ACL")]
    Unknown,
    /// Of keys.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try \
         'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    /// Of channels.
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try \
         'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
    /// Of a password.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// Of a password.
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
    )]
    NoHash,
    /// Of a command.
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgument,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// False: nobody can be it.
    pub is_on: bool,
    /// Any password is right.
    pub takes_any_password: bool,
    /// What RESTORE is given is looked at closely; it always is, this is only told.
    pub sanitizes: bool,
    /// SHA-256, in hexadecimal digits.
    pub passwords: BTreeSet<String>,
    /// What it may do.
    pub root: Selector,
    /// … or what else.
    pub selectors: Vec<Selector>,
}

/// SHA-256 in hexadecimal digits.
fn hash(password: &[u8]) -> String {
    Sha256::digest(password).iter().fold(String::new(), |mut digits, byte| {
        // A string takes everything.
        let _never = write!(digits, "{byte:02x}");
        digits
    })
}

impl User {
    /// One that can do nothing yet, and that nobody can be.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_on: false,
            takes_any_password: false,
            sanitizes: true,
            passwords: BTreeSet::new(),
            root: Selector::default(),
            selectors: Vec::new(),
        }
    }

    /// The one that everybody is where there are no passwords, or that has one.
    pub fn default_user(password: Option<&str>) -> Self {
        let mut user = Self { is_on: true, root: Selector::everything(), ..Self::new(DEFAULT) };
        match password {
            Some(password) => drop(user.passwords.insert(hash(password.as_bytes()))),
            None => user.takes_any_password = true,
        }
        user
    }

    /// True if it may do everything: nothing has to be looked up.
    pub fn is_unrestricted(&self) -> bool {
        self.root.is_everything()
    }

    /// True if the password is one of its own. It takes as long whichever it is.
    pub fn is_password(&self, password: &[u8]) -> bool {
        let hash = hash(password);
        let is_one = self
            .passwords
            .iter()
            .fold(0, |found, held| found | held.as_bytes().ct_eq(hash.as_bytes()).unwrap_u8());
        self.is_on && (self.takes_any_password || is_one == 1)
    }

    /// Changes it by rules; nothing is changed if one of them is bad, which is returned with why.
    pub fn change(&mut self, rules: &[Bytes]) -> Result<(), (String, BadRule)> {
        let mut changed = self.clone();
        for rule in rules {
            let text = String::from_utf8_lossy(rule);
            changed.apply(&text).map_err(|why| (text.into_owned(), why))?;
        }
        *self = changed;
        Ok(())
    }

    fn apply(&mut self, rule: &str) -> Result<(), BadRule> {
        match rule.to_ascii_lowercase().as_str() {
            "on" => self.is_on = true,
            "off" => self.is_on = false,
            "nopass" => {
                self.takes_any_password = true;
                self.passwords.clear();
            }
            "resetpass" => {
                self.takes_any_password = false;
                self.passwords.clear();
            }
            "sanitize-payload" => self.sanitizes = true,
            "skip-sanitize-payload" => self.sanitizes = false,
            "reset" => *self = Self::new(&self.name),
            "clearselectors" => self.selectors.clear(),
            _ => match rule.as_bytes().first() {
                Some(b'>') => {
                    self.passwords.insert(hash(&rule.as_bytes()[1..]));
                    self.takes_any_password = false;
                }
                Some(b'#') => {
                    let digits = &rule[1..];
                    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                    if digits.len() != 64 || !digits.bytes().all(is_digit) {
                        return Err(BadRule::NoHash);
                    }
                    self.passwords.insert(digits.to_owned());
                    self.takes_any_password = false;
                }
                Some(b'<') if self.passwords.remove(&hash(&rule.as_bytes()[1..])) => {}
                Some(b'!') if self.passwords.remove(&rule[1..]) => {}
                Some(b'<' | b'!') => return Err(BadRule::NoSuchPassword),
                Some(b'(') => {
                    let inner = rule[1..].strip_suffix(')').ok_or(BadRule::Syntax)?;
                    let mut selector = Selector::default();
                    inner.split_whitespace().try_for_each(|rule| selector.apply(rule))?;
                    self.selectors.push(selector);
                }
                _ => self.root.apply(rule)?,
            },
        }
        Ok(())
    }

    /// What it may do, one or the other.
    fn all_selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// Whether it may run a command.
    ///
    /// Errors: of the selector that allows most of it, what it does not.
    pub fn may(&self, spec: &Spec, arguments: &[Bytes]) -> Result<(), Denied> {
        if self.is_unrestricted() {
            return Ok(());
        }
        let mut nearest: Option<Denied> = None;
        for selector in self.all_selectors() {
            match selector.may(spec, arguments) {
                Ok(()) => return Ok(()),
                Err(denied) => {
                    if nearest.as_ref().is_none_or(|held| *held < denied) {
                        nearest = Some(denied);
                    }
                }
            }
        }
        nearest.map_or(Ok(()), Err)
    }

    /// True if it may read every key by a command.
    pub fn may_read_all(&self, spec: &Spec) -> bool {
        self.all_selectors().any(|selector| selector.may_read_all(spec))
    }

    /// True if it may have subscribed to something; a pattern must be one of its own.
    pub fn may_hear(&self, name: &[u8], is_pattern: bool) -> bool {
        self.all_selectors().any(|selector| selector.hears(name, is_pattern))
    }

    /// `on`, `nopass` and the like.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_on { "on" } else { "off" }];
        if self.takes_any_password {
            flags.push("nopass");
        }
        flags.push(if self.sanitizes { "sanitize-payload" } else { "skip-sanitize-payload" });
        flags
    }

    /// The rules that make it what it is.
    pub fn rules(&self) -> String {
        let mut rules = self.flags().join(" ");
        for password in &self.passwords {
            rules.push_str(" #");
            rules.push_str(password);
        }
        rules.push(' ');
        rules.push_str(&self.permissions());
        rules
    }

    /// Those of them that say what it may do.
    pub fn permissions(&self) -> String {
        let mut rules = self.root.rules();
        for selector in &self.selectors {
            rules.push_str(" (");
            rules.push_str(&selector.rules());
            rules.push(')');
        }
        rules
    }

    /// One that may do what such rules say.
    pub fn with_rules(name: &str, rules: &str) -> Result<Self, BadRule> {
        let mut user = Self::new(name);
        split(rules).ok_or(BadRule::Syntax)?.iter().try_for_each(|rule| user.apply(rule))?;
        Ok(user)
    }
}

/// Rules between spaces, those in brackets together; `None` if a bracket is not closed.
fn split(rules: &str) -> Option<Vec<String>> {
    join(rules.split(' ').filter(|rule| !rule.is_empty()).map(str::to_owned)).ok()
}

/// Puts rules in brackets together that came one by one. Errors with what is not closed.
pub fn join(rules: impl IntoIterator<Item = String>) -> Result<Vec<String>, String> {
    let mut joined: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for rule in rules {
        let rule = match open.take() {
            Some(held) => format!("{held} {rule}"),
            None => rule,
        };
        if rule.starts_with('(') && !rule.ends_with(')') {
            open = Some(rule);
        } else {
            joined.push(rule);
        }
    }
    open.map_or(Ok(joined), Err)
}

#[cfg(test)]
mod tests;
