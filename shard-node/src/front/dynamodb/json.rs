//! Attribute values as JSON: `{"S": "text"}`, `{"N": "12"}` and so on.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Serialize, Serializer};

use super::error::Refusal;
use crate::error::Invalid;
use crate::item::{Item, Value, set};
use crate::number::Number;

/// A value as it comes. One of the fields is to be set.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) struct Given {
    s: Option<String>,
    n: Option<String>,
    b: Option<String>,
    bool: Option<bool>,
    null: Option<bool>,
    l: Option<Vec<Given>>,
    m: Option<BTreeMap<String, Given>>,
    ss: Option<Vec<String>>,
    ns: Option<Vec<String>>,
    bs: Option<Vec<String>>,
}

/// An item or a key as it comes.
pub(super) type GivenItem = BTreeMap<String, Given>;

/// The item that was given.
pub(super) fn item(given: GivenItem) -> Result<Item, Refusal> {
    given.into_iter().map(|(name, given)| Ok((name, given.value()?))).collect()
}

fn binary(text: &str) -> Result<Bytes, Refusal> {
    let decoded = BASE64
        .decode(text)
        .map_err(|error| Refusal::serialization(format!("the value of B is not base64: {error}")))?;
    Ok(decoded.into())
}

impl Given {
    /// The value that was given.
    pub(super) fn value(self) -> Result<Value, Refusal> {
        let Self { s, n, b, bool, null, l, m, ss, ns, bs } = self;
        let mut found: Vec<Value> = Vec::with_capacity(1);
        let number = |text: String| text.parse::<Number>().map_err(Invalid::from);
        found.extend(s.map(Value::S));
        found.extend(n.map(|text| number(text).map(Value::N)).transpose()?);
        found.extend(b.map(|text| binary(&text).map(Value::B)).transpose()?);
        found.extend(bool.map(Value::Bool));
        match null {
            Some(true) => found.push(Value::Null),
            Some(false) => {
                return Err(Invalid::new(
                    "One or more parameter values were invalid: Null attribute value types must have the value of true",
                )
                .into());
            }
            None => {}
        }
        if let Some(values) = l {
            found.push(Value::L(values.into_iter().map(Self::value).collect::<Result<_, _>>()?));
        }
        found.extend(m.map(item).transpose()?.map(Value::M));
        found.extend(ss.map(|texts| set("string", texts).map(Value::Ss)).transpose()?);
        if let Some(texts) = ns {
            let numbers = texts.into_iter().map(number).collect::<Result<_, _>>()?;
            found.push(Value::Ns(set("number", numbers)?));
        }
        if let Some(texts) = bs {
            if texts.is_empty() {
                return Err(Invalid::new(
                    "One or more parameter values were invalid: Binary sets should not be empty",
                )
                .into());
            }
            // Checked as text, which is how the refusal shows them.
            let texts = set("binary", texts)?;
            found.push(Value::Bs(texts.iter().map(|text| binary(text)).collect::<Result<BTreeSet<_>, _>>()?));
        }
        let several = found.len() > 1;
        match found.pop() {
            Some(value) if !several => Ok(value),
            Some(_) => Err(Invalid::new(
                "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported \
                 datatypes",
            )
            .into()),
            None => Err(Invalid::new(
                "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
            )
            .into()),
        }
    }
}

/// Something of ours as JSON.
pub(super) struct Shown<'a, T>(pub(super) &'a T);

impl Serialize for Shown<'_, Item> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Shown(value))))
    }
}

impl Serialize for Shown<'_, Vec<Item>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Shown))
    }
}

impl Serialize for Shown<'_, Vec<Value>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut values = serializer.serialize_seq(Some(self.0.len()))?;
        self.0.iter().try_for_each(|value| values.serialize_element(&Shown(value)))?;
        values.end()
    }
}

impl Serialize for Shown<'_, Value> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        let name = self.0.kind().name();
        match self.0 {
            Value::S(text) => map.serialize_entry(name, text)?,
            Value::N(number) => map.serialize_entry(name, &number.to_string())?,
            Value::B(bytes) => map.serialize_entry(name, &BASE64.encode(bytes))?,
            Value::Bool(truth) => map.serialize_entry(name, truth)?,
            Value::Null => map.serialize_entry(name, &true)?,
            Value::L(values) => map.serialize_entry(name, &Shown(values))?,
            Value::M(members) => map.serialize_entry(name, &Shown(members))?,
            Value::Ss(set) => map.serialize_entry(name, set)?,
            Value::Ns(set) => {
                map.serialize_entry(name, &set.iter().map(ToString::to_string).collect::<Vec<_>>())?;
            }
            Value::Bs(set) => {
                map.serialize_entry(name, &set.iter().map(|bytes| BASE64.encode(bytes)).collect::<Vec<_>>())?;
            }
        }
        map.end()
    }
}
