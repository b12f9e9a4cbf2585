//! The commands of Redis, carried out where the keys are: by the leader for a read, by every replica for a write.
//!
//! [`table`] says of each command how it is called and which function carries it out; there is one file of those
//! functions a data type. They take their arguments as the client sent them and write their [`reply`]; the same ones run
//! alone and within a transaction. No clock and no chance but those in the context: every replica does the same.
//!
//! Adding one: a function, and a line in the table of its group.

use std::borrow::Cow;

use bytes::Bytes;

use crate::access::User;
use crate::data::{Container, Encodings, Keys, WrongType};

pub mod reply;

pub mod table;

pub mod arguments;

mod bits;
#[cfg(test)]
mod compatibility;
pub(crate) mod event;
mod hash;
mod hash_expiry;
mod hyperloglog;
pub(crate) mod key;
mod list;
mod pattern;
pub(crate) mod scripting;
mod serialized;
mod set;
mod sort;
mod sorted_set;
pub(crate) mod stream;
mod string;

pub use pattern::matches;
use reply::Answer;
use table::{Run, Spec};

/// Why a command was not carried out, in the words of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Cow<'static, str>);

impl Refusal {
    /// With a text of its own.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }

    /// The text, which begins with the class of the error.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl From<WrongType> for Refusal {
    fn from(_: WrongType) -> Self {
        Self::new("WRONGTYPE Operation against a key holding the wrong kind of value")
    }
}

/// A refusal with this text.
pub fn refuse<T>(text: impl Into<Cow<'static, str>>) -> Done<T> {
    Err(Refusal::new(text))
}

/// What a command comes to.
pub type Done<T = ()> = Result<T, Refusal>;

/// Numbers that look like chance and are the same on every replica and in every release. Source: Steele, Lea, Flood,
/// "Fast splittable pseudorandom number generators" (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Those that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below a bound, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.number()) * bound as u128) >> 64) as usize
    }
}

/// What a command that changes nothing works with.
#[derive(Debug)]
pub struct Read<'a> {
    /// The keys of its partition.
    pub keys: &'a Keys,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// How values are laid out.
    pub encodings: &'a Encodings,
    /// The format of the cluster in which the command was taken: what came later is not known to it.
    pub format: u32,
    /// Who runs a script, if that one may not do everything.
    pub actor: Option<&'a User>,
    /// Chance.
    pub random: Random,
    /// Where its answer goes.
    pub out: &'a mut Answer,
}

impl<'a> Read<'a> {
    /// The value of a key as one type; `None` if there is no such key.
    pub fn look<T: Container>(&self, key: &[u8]) -> Done<Option<&'a T>> {
        Ok(self.keys.look(key, self.now_ms)?)
    }
}

/// What a command that may change something works with.
#[derive(Debug)]
pub struct Write<'a> {
    /// The keys of its partition.
    pub keys: &'a mut Keys,
    /// The stamp of the command, milliseconds since 1970.
    pub now_ms: u64,
    /// How values are laid out.
    pub encodings: &'a Encodings,
    /// The format of the cluster in which the command was taken: what came later is not known to it.
    pub format: u32,
    /// Who runs a script, if that one may not do everything.
    pub actor: Option<&'a User>,
    /// Chance.
    pub random: Random,
    /// Where its answer goes.
    pub out: &'a mut Answer,
}

impl Write<'_> {
    /// The value of a key as one type; `None` if there is no such key.
    pub fn look<T: Container>(&self, key: &[u8]) -> Done<Option<&T>> {
        Ok(self.keys.look(key, self.now_ms)?)
    }

    /// Changes a value of one type, see [`Keys::update`].
    pub fn update<T: Container, R>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut T, &Encodings) -> (bool, R),
    ) -> Done<R> {
        let encodings = self.encodings;
        Ok(self.keys.update(key, self.now_ms, |value| change(value, encodings))?)
    }

    /// The same for reading only.
    pub fn reading(&mut self) -> Read<'_> {
        Read {
            keys: self.keys,
            now_ms: self.now_ms,
            encodings: self.encodings,
            format: self.format,
            actor: self.actor,
            random: self.random,
            out: self.out,
        }
    }
}

/// Carries out a command that may change something. A refused one is answered too.
pub fn write(context: &mut Write<'_>, spec: &Spec, arguments: &[Bytes]) {
    let position = context.out.position();
    if context.keys.notices.are_wanted() {
        context.keys.notices.announce(event::doing(spec, arguments));
    }
    let done = match spec.run {
        Run::Write(_) if spec.needs_memory && context.keys.is_full => refuse(NO_MEMORY),
        Run::Write(run) => run(context, arguments),
        Run::Read(run) => run(&mut context.reading(), arguments),
        Run::Front => refuse(NOT_HERE),
    };
    if let Err(refusal) = done {
        context.out.refused(position, &refusal);
    }
}

/// Carries out a command that changes nothing. A refused one is answered too.
pub fn read(context: &mut Read<'_>, spec: &Spec, arguments: &[Bytes]) {
    let position = context.out.position();
    let done = match spec.run {
        Run::Read(run) => run(context, arguments),
        Run::Write(_) | Run::Front => refuse(NOT_HERE),
    };
    if let Err(refusal) = done {
        context.out.refused(position, &refusal);
    }
}

/// Said of what may need more memory.
pub(crate) const NO_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";

const NOT_HERE: &str = "ERR this command is not one of a partition";

#[cfg(test)]
mod tests;
