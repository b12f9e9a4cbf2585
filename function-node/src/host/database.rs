//! The database, for components: `trimaran:data/database`.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};
use trimaran_client::database as client;
use trimaran_wasm_host::data::{
    Database, Error, Item, KeyType, Page, Placeholders, ReadOptions, ReturnValues, Table, Value, WriteOptions,
};

use super::error;

/// The database through the SDK.
pub(crate) struct HostDatabase(pub(crate) client::Database);

#[async_trait]
impl Database for HostDatabase {
    async fn create_table(&self, table: Table) -> Result<(), Error> {
        let key = |(name, kind): (String, KeyType)| {
            let kind = match kind {
                KeyType::Text => client::KeyType::S,
                KeyType::Number => client::KeyType::N,
                KeyType::Binary => client::KeyType::B,
            };
            (name, kind)
        };
        let table = client::Table {
            name: table.name,
            partition_key: key(table.partition_key),
            sort_key: table.sort_key.map(key),
        };
        self.0.create_table(table).await.map_err(error)
    }

    async fn get_item(&self, table: String, key: Item) -> Result<Option<Item>, Error> {
        let found = self.0.get_item(&table, read(key)?).await.map_err(error)?;
        Ok(found.map(write))
    }

    async fn put_item(
        &self,
        table: String,
        item: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        let options = write_options(options)?;
        let old = self.0.put_item_with(&table, read(item)?, options).await.map_err(error)?;
        Ok(old.map(write))
    }

    async fn update_item(
        &self,
        table: String,
        key: Item,
        update: String,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        let options = write_options(options)?;
        let asked = self.0.update_item(&table, read(key)?, &update, options).await.map_err(error)?;
        Ok(asked.map(write))
    }

    async fn delete_item(
        &self,
        table: String,
        key: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        let options = write_options(options)?;
        let old = self.0.delete_item(&table, read(key)?, options).await.map_err(error)?;
        Ok(old.map(write))
    }

    async fn query(&self, table: String, key_condition: String, options: ReadOptions) -> Result<Page, Error> {
        let options = read_options(options)?;
        Ok(page(self.0.query(&table, &key_condition, options).await.map_err(error)?))
    }

    async fn scan(&self, table: String, options: ReadOptions) -> Result<Page, Error> {
        Ok(page(self.0.scan(&table, read_options(options)?).await.map_err(error)?))
    }
}

fn page(page: client::Page) -> Page {
    Page { items: page.items.into_iter().map(write).collect(), last_key: page.last_key.map(write) }
}

fn write_options(options: WriteOptions) -> Result<client::WriteOptions, Error> {
    Ok(client::WriteOptions {
        condition: options.condition,
        placeholders: placeholders(options.placeholders)?,
        return_values: match options.return_values {
            ReturnValues::None => client::ReturnValues::None,
            ReturnValues::AllOld => client::ReturnValues::AllOld,
            ReturnValues::UpdatedOld => client::ReturnValues::UpdatedOld,
            ReturnValues::AllNew => client::ReturnValues::AllNew,
            ReturnValues::UpdatedNew => client::ReturnValues::UpdatedNew,
        },
    })
}

fn read_options(options: ReadOptions) -> Result<client::ReadOptions, Error> {
    Ok(client::ReadOptions {
        filter: options.filter,
        projection: options.projection,
        placeholders: placeholders(options.placeholders)?,
        limit: options.limit,
        start_key: options.start_key.map(read).transpose()?,
        descending: options.descending,
        segment: None,
        ..client::ReadOptions::default()
    })
}

fn placeholders(placeholders: Placeholders) -> Result<client::Placeholders, Error> {
    Ok(client::Placeholders {
        names: placeholders.names.into_iter().collect(),
        values: read(placeholders.values)?,
    })
}

fn read(item: Item) -> Result<client::Item, Error> {
    item.into_iter().map(|(name, value)| Ok((name, read_value(value)?))).collect()
}

fn read_value(value: Value) -> Result<client::Value, Error> {
    Ok(match value {
        Value::Text(text) => client::Value::S(text),
        Value::Number(number) => client::Value::N(number),
        Value::Binary(bytes) => client::Value::B(bytes.into()),
        Value::Boolean(truth) => client::Value::Bool(truth),
        Value::Null => client::Value::Null,
        Value::TextSet(set) => client::Value::Ss(set.into_iter().collect()),
        Value::NumberSet(set) => client::Value::Ns(set.into_iter().collect()),
        Value::BinarySet(set) => client::Value::Bs(set.into_iter().map(Into::into).collect()),
        Value::Document(text) => {
            let json = serde_json::from_str(&text)
                .map_err(|error| Error::Invalid(format!("a document is no JSON: {error}")))?;
            parse(&json)
                .ok_or_else(|| Error::Invalid(format!("a document is not in DynamoDB's JSON: {text:?}")))?
        }
    })
}

fn write(item: client::Item) -> Item {
    item.into_iter().map(|(name, value)| (name, write_value(value))).collect()
}

fn write_value(value: client::Value) -> Value {
    match value {
        client::Value::S(text) => Value::Text(text),
        client::Value::N(number) => Value::Number(number),
        client::Value::B(bytes) => Value::Binary(bytes.into()),
        client::Value::Bool(truth) => Value::Boolean(truth),
        client::Value::Null => Value::Null,
        client::Value::Ss(set) => Value::TextSet(set.into_iter().collect()),
        client::Value::Ns(set) => Value::NumberSet(set.into_iter().collect()),
        client::Value::Bs(set) => Value::BinarySet(set.into_iter().map(Into::into).collect()),
        document @ (client::Value::L(_) | client::Value::M(_)) => {
            Value::Document(shown(&document).to_string())
        }
    }
}

/// A value in DynamoDB's JSON. serde_json bounds how deep it may be.
fn parse(json: &Json) -> Option<client::Value> {
    let text = |json: &Json| json.as_str().map(str::to_owned);
    let bytes = |json: &Json| BASE64.decode(json.as_str()?).ok().map(Into::into);
    let (kind, json) = json.as_object().filter(|object| object.len() == 1)?.iter().next()?;
    Some(match kind.as_str() {
        "S" => client::Value::S(text(json)?),
        "N" => client::Value::N(text(json)?),
        "B" => client::Value::B(bytes(json)?),
        "BOOL" => client::Value::Bool(json.as_bool()?),
        "NULL" => json.as_bool()?.then_some(client::Value::Null)?,
        "L" => client::Value::L(json.as_array()?.iter().map(parse).collect::<Option<_>>()?),
        "M" => {
            let member = |(name, json): (&String, &Json)| Some((name.clone(), parse(json)?));
            client::Value::M(json.as_object()?.iter().map(member).collect::<Option<_>>()?)
        }
        "SS" => client::Value::Ss(json.as_array()?.iter().map(text).collect::<Option<_>>()?),
        "NS" => client::Value::Ns(json.as_array()?.iter().map(text).collect::<Option<_>>()?),
        "BS" => client::Value::Bs(json.as_array()?.iter().map(bytes).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn shown(value: &client::Value) -> Json {
    match value {
        client::Value::S(text) => json!({ "S": text }),
        client::Value::N(number) => json!({ "N": number }),
        client::Value::B(bytes) => json!({ "B": BASE64.encode(bytes) }),
        client::Value::Bool(truth) => json!({ "BOOL": truth }),
        client::Value::Null => json!({ "NULL": true }),
        client::Value::L(values) => json!({ "L": values.iter().map(shown).collect::<Vec<_>>() }),
        client::Value::M(members) => {
            let members: Map<String, Json> =
                members.iter().map(|(name, value)| (name.clone(), shown(value))).collect();
            json!({ "M": members })
        }
        client::Value::Ss(set) => json!({ "SS": set }),
        client::Value::Ns(set) => json!({ "NS": set }),
        client::Value::Bs(set) => {
            json!({ "BS": set.iter().map(|bytes| BASE64.encode(bytes)).collect::<Vec<_>>() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_as_they_went() {
        let text = r#"{"L":[{"M":{"a":{"N":"1.50"},"b":{"BOOL":true}}},{"NULL":true},{"BS":["AQI="]}]}"#;
        let value = read_value(Value::Document(text.to_owned())).unwrap();
        let Value::Document(back) = write_value(value) else { panic!("no document") };
        assert_eq!(back, text);
        for bad in ["x", "{}", r#"{"L":1}"#, r#"{"N":1}"#, r#"{"S":"a","N":"1"}"#, r#"{"NULL":false}"#] {
            let refused = read_value(Value::Document(bad.to_owned())).unwrap_err();
            assert!(matches!(refused, Error::Invalid(_)), "{bad}: {refused:?}");
        }
    }
}
