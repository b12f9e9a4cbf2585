//! `trimaran db access-key`: keys of the DynamoDB API.

use clap::Subcommand;
use serde_json::json;
use trimaran_client::database::Database;

use crate::output::Format;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a key and print it with its secret, which is told now and never again
    Create {
        /// Whose it is
        #[arg(default_value = "")]
        note: String,
    },
    /// Print all keys
    List,
    /// Remove a key; what is signed with it is refused within moments
    Delete {
        /// Its id
        id: String,
    },
}

pub(super) async fn run(database: &Database, command: Command, output: Format) -> anyhow::Result<()> {
    match command {
        Command::Create { note } => {
            let (key, secret) = database.create_access_key(&note).await?;
            output.show(&json!({ "id": key.id, "secret": secret, "note": key.note }), |_| {
                format!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={secret}", key.id)
            })
        }
        Command::List => {
            for key in database.list_access_keys().await? {
                let shown = json!({ "id": key.id, "note": key.note, "created_ms": key.created_ms });
                output.show(&shown, |_| format!("{} {}", key.id, key.note).trim_end().to_owned())?;
            }
            Ok(())
        }
        Command::Delete { id } => {
            database.delete_access_key(&id).await?;
            output.show(&json!({ "deleted": id }), |_| format!("{id} is deleted"))
        }
    }
}
