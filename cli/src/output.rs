//! How results are shown: for people, or as JSON for programs.

use clap::ValueEnum;
use serde::Serialize;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

impl Format {
    /// Shows a result in this form.
    pub(crate) fn show<T: Serialize>(
        self,
        result: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Text => {
                let text = text(result);
                if !text.is_empty() {
                    println!("{text}");
                }
            }
            Self::Json => println!("{}", serde_json::to_string_pretty(result)?),
        }
        Ok(())
    }

    /// Shows one of many results that come one by one: a line each.
    pub(crate) fn show_line<T: Serialize>(
        self,
        result: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Text => println!("{}", text(result)),
            Self::Json => println!("{}", serde_json::to_string(result)?),
        }
        Ok(())
    }
}
