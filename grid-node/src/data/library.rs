//! Libraries of functions that clients have loaded (FUNCTION LOAD). Every partition has all of them, so that a function is
//! carried out at its place in the log with what was loaded before it.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// What it was loaded from, the first line included.
    pub code: Bytes,
    /// By their names.
    pub functions: BTreeMap<String, Registered>,
}

/// A function of a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// For people.
    pub description: Option<Bytes>,
    /// As they were given, in order.
    pub flags: Vec<String>,
}

impl Registered {
    /// True if it has a flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|held| held == flag)
    }
}

/// All of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    by_name: BTreeMap<String, Library>,
    /// Names of functions in small letters, and the library and the name that each is of.
    by_function: BTreeMap<String, (String, String)>,
}

impl Libraries {
    /// A library by its name.
    pub fn get(&self, name: &str) -> Option<&Library> {
        self.by_name.get(name)
    }

    /// All of them, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Library)> {
        self.by_name.iter().map(|(name, library)| (name.as_str(), library))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many functions there are.
    pub fn functions(&self) -> usize {
        self.by_function.len()
    }

    /// Bytes of all code.
    pub fn bytes(&self) -> usize {
        self.by_name.values().map(|library| library.code.len()).sum()
    }

    /// A function by its name, in capitals or not: its library, and what it is there.
    pub fn function(&self, name: &str) -> Option<(&Library, &str, &Registered)> {
        let (library, name) = self.by_function.get(&name.to_ascii_lowercase())?;
        let library = self.by_name.get(library)?;
        let (name, registered) = library.functions.get_key_value(name)?;
        Some((library, name, registered))
    }

    /// Adds a library, in the place of one of its name. Errors with the name of a function that another library has; nothing
    /// is changed then.
    pub fn insert(&mut self, name: &str, library: Library) -> Result<(), String> {
        let is_taken = |function: &&String| {
            self.by_function.get(&function.to_ascii_lowercase()).is_some_and(|(owner, _)| owner != name)
        };
        if let Some(taken) = library.functions.keys().find(is_taken) {
            return Err(taken.clone());
        }
        self.remove(name);
        for function in library.functions.keys() {
            self.by_function.insert(function.to_ascii_lowercase(), (name.to_owned(), function.clone()));
        }
        self.by_name.insert(name.to_owned(), library);
        Ok(())
    }

    /// Removes a library; false if there is none of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        self.by_function.retain(|_, (owner, _)| owner != name);
        self.by_name.remove(name).is_some()
    }

    /// Takes what another partition had and this one has not: all have the same, but for what is just being loaded.
    pub fn merge(&mut self, others: Self) {
        for (name, library) in others.by_name {
            if !self.by_name.contains_key(&name) {
                // A function that another library has here by now stays what it is here.
                let _taken = self.insert(&name, library);
            }
        }
    }
}
