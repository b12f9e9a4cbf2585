//! Options in layers: defaults, then a TOML file, then the environment, then flags.

use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An option that cannot be used; the text names it and where it came from.
#[derive(Debug, thiserror::Error)]
#[error("the options cannot be used: {0}")]
pub struct Error(String);

/// Reads options of type `T`: its defaults, under the given file, under environment variables that begin with
/// `env_prefix` (`TRIMARAN_GRID_RESP_LISTEN` sets `resp_listen`), under `flags`, whose absent fields must be skipped
/// when serialized.
pub fn load<T: Default + Serialize + DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    flags: &impl Serialize,
) -> Result<T, Error> {
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    if let Some(file) = file {
        // `file_exact`: no search in parent folders, and a missing file is an error.
        figment = figment.merge(Toml::file_exact(file));
    }
    figment
        .merge(Env::prefixed(env_prefix))
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|error| Error(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        port: u16,
        name: String,
        depth: u32,
    }

    impl Default for Options {
        fn default() -> Self {
            Self { port: 1, name: "default".into(), depth: 9 }
        }
    }

    #[derive(Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let path = std::env::temp_dir().join(format!("trimaran-config-{}.toml", std::process::id()));
        std::fs::File::create(&path).unwrap().write_all(b"port = 2\nname = \"file\"\n").unwrap();
        let flags = Flags { port: Some(3), name: None };
        let options: Options = load(Some(&path), "TRIMARAN_NO_SUCH_", &flags).unwrap();
        assert_eq!(options, Options { port: 3, name: "file".into(), depth: 9 });
        std::fs::File::create(&path).unwrap().write_all(b"prot = 2\n").unwrap();
        let refused = load::<Options>(Some(&path), "TRIMARAN_NO_SUCH_", &flags).unwrap_err().to_string();
        assert!(refused.contains("prot"), "{refused}");
        std::fs::remove_file(&path).unwrap();
    }
}
