//! What clients are told of keys that change, where they ask for it: keyspace notifications.
//!
//! A command says beforehand what its changes are called ([`Notices::announce`]); the keys note each change as they make
//! it. Source: "Redis keyspace notifications" in the documentation of Redis.

use std::fmt;

use bytes::Bytes;

/// Classes of events, and which channels they are told on: the letters of `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u32);

impl Classes {
    /// None.
    pub const NONE: Self = Self(0);
    /// `K`: on `__keyspace@0__:key`.
    pub const KEYSPACE: Self = Self(1);
    /// `E`: on `__keyevent@0__:event`.
    pub const KEYEVENT: Self = Self(1 << 1);
    /// `g`: commands that know no data type.
    pub const GENERIC: Self = Self(1 << 2);
    /// `$`
    pub const STRING: Self = Self(1 << 3);
    /// `l`
    pub const LIST: Self = Self(1 << 4);
    /// `s`
    pub const SET: Self = Self(1 << 5);
    /// `h`
    pub const HASH: Self = Self(1 << 6);
    /// `z`
    pub const SORTED_SET: Self = Self(1 << 7);
    /// `x`: times to live that are over.
    pub const EXPIRED: Self = Self(1 << 8);
    /// `e`
    pub const EVICTED: Self = Self(1 << 9);
    /// `t`
    pub const STREAM: Self = Self(1 << 10);
    /// `d`: of modules, of which there are none.
    const MODULE: Self = Self(1 << 11);
    /// `m`: reads of keys that are not there, which no replica tells of.
    const KEY_MISS: Self = Self(1 << 12);
    /// `n`: keys that were not there before.
    pub const NEW: Self = Self(1 << 13);
    /// `A`: all but the last two.
    const ALL: Self = Self(0b1111_1111_1100);

    /// In the order in which Redis tells them.
    const LETTERS: [(char, Self); 14] = [
        ('g', Self::GENERIC),
        ('$', Self::STRING),
        ('l', Self::LIST),
        ('s', Self::SET),
        ('h', Self::HASH),
        ('z', Self::SORTED_SET),
        ('x', Self::EXPIRED),
        ('e', Self::EVICTED),
        ('t', Self::STREAM),
        ('d', Self::MODULE),
        ('K', Self::KEYSPACE),
        ('E', Self::KEYEVENT),
        ('m', Self::KEY_MISS),
        ('n', Self::NEW),
    ];

    /// As they are between nodes.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The same back.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Reads letters; `None` if one of them stands for nothing.
    pub fn parse(letters: &str) -> Option<Self> {
        letters.chars().try_fold(Self::NONE, |classes, letter| {
            let class = match letter {
                'A' => Self::ALL,
                letter => Self::LETTERS.iter().find(|(known, _)| *known == letter)?.1,
            };
            Some(classes.and(class))
        })
    }

    /// Those of either.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if any of the others is among them.
    pub fn has(self, any_of: Self) -> bool {
        self.0 & any_of.0 != 0
    }

    /// True if an event of a class is to be told on a kind of channel.
    pub fn tells(self, class: Self, channel: Self) -> bool {
        self.has(class) && self.has(channel)
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = &Self::LETTERS[..];
        if self.0 & Self::ALL.0 == Self::ALL.0 {
            f.write_str("A")?;
            letters = &letters[10..];
        }
        letters.iter().filter(|(_, class)| self.has(*class)).try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// What a command does to a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// Its class.
    pub class: Classes,
    /// As Redis calls it.
    pub event: &'static str,
}

impl Doing {
    /// Nothing that is told.
    pub const SILENT: Self = Self { class: Classes::NONE, event: "" };
    /// A key is removed.
    pub const DEL: Self = Self::new(Classes::GENERIC, "del");
    /// A key gets a time to live.
    pub const EXPIRE: Self = Self::new(Classes::GENERIC, "expire");
    /// A key loses its time to live.
    pub const PERSIST: Self = Self::new(Classes::GENERIC, "persist");
    /// A time to live was over.
    pub const EXPIRED: Self = Self::new(Classes::EXPIRED, "expired");
    /// A key made room for others.
    pub const EVICTED: Self = Self::new(Classes::EVICTED, "evicted");
    /// Fields of a hash have ended.
    pub const FIELD_EXPIRED: Self = Self::new(Classes::HASH, "hexpired");
    /// A key gets another name; it is told of the old one.
    pub const RENAME_FROM: Self = Self::new(Classes::GENERIC, "rename_from");
    /// It is told of the new one.
    pub const RENAME_TO: Self = Self::new(Classes::GENERIC, "rename_to");
    /// A key was not there before.
    pub const NEW: Self = Self::new(Classes::NEW, "new");

    /// One of a class.
    pub const fn new(class: Classes, event: &'static str) -> Self {
        Self { class, event }
    }
}

/// One thing to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A change of a key.
    Event {
        /// What happened.
        doing: Doing,
        /// To which key.
        key: Bytes,
    },
    /// What a script publishes.
    Publication {
        /// Of the sharded kind.
        sharded: bool,
        /// Where.
        channel: Bytes,
        /// What.
        payload: Bytes,
    },
}

/// What is to be told of the commands that are being carried out.
#[derive(Debug, Default)]
pub struct Notices {
    /// Classes that somebody asks for.
    wanted: Classes,
    doing: Doing,
    found: Vec<Notice>,
}

impl Notices {
    /// Which classes are noted from now on; returns which were before.
    pub(crate) fn want(&mut self, wanted: Classes) -> Classes {
        std::mem::replace(&mut self.wanted, wanted)
    }

    /// True if somebody wants to be told of anything.
    pub fn are_wanted(&self) -> bool {
        self.wanted != Classes::NONE
    }

    /// What changes from now on are called; returns what they were called before.
    pub fn announce(&mut self, doing: Doing) -> Doing {
        std::mem::replace(&mut self.doing, doing)
    }

    /// Something that was done to a key.
    pub fn note(&mut self, doing: Doing, key: &[u8]) {
        if self.wanted.has(doing.class) {
            self.found.push(Notice::Event { doing, key: Bytes::copy_from_slice(key) });
        }
    }

    /// A change, under the name that was announced.
    pub(super) fn changed(&mut self, key: &[u8]) {
        self.note(self.doing, key);
    }

    /// A key is gone.
    pub(super) fn removed(&mut self, key: &[u8], is_due: bool) {
        let doing = match self.doing {
            _ if is_due => Doing::EXPIRED,
            doing @ (Doing::RENAME_FROM | Doing::EVICTED) => doing,
            _ => Doing::DEL,
        };
        self.note(doing, key);
    }

    /// What a script publishes.
    pub(crate) fn publish(&mut self, sharded: bool, channel: Bytes, payload: Bytes) {
        self.found.push(Notice::Publication { sharded, channel, payload });
    }

    /// What was found since this was called last.
    pub(crate) fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_told_as_redis_tells_them() {
        for (said, told) in [
            ("", ""),
            ("KA", "AK"),
            ("EA", "AE"),
            ("gKE", "gKE"),
            ("$lshzxeKE", "$lshzxeKE"),
            ("g$lshzxetd", "A"),
            ("KEAn", "AKEn"),
        ] {
            assert_eq!(Classes::parse(said).unwrap().to_string(), told);
        }
        assert_eq!(Classes::parse("KX"), None);
        let some = Classes::parse("Kl").unwrap();
        assert!(some.tells(Classes::LIST, Classes::KEYSPACE));
        assert!(
            !some.tells(Classes::LIST, Classes::KEYEVENT) && !some.tells(Classes::SET, Classes::KEYSPACE)
        );
    }
}
