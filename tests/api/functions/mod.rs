//! Functions as their callers see them, over HTTP and gRPC.

mod contract;
mod example;
mod refused;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use trimaran_client::functions::{Functions, Runtime, Spec};
use trimaran_tests::harness::process::Dev;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A zip archive with one file.
fn archive(name: &str, bytes: &[u8]) -> Bytes {
    use std::io::Write as _;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(bytes).unwrap();
    archive.finish().unwrap().into_inner().into()
}

/// What is tried with every runtime: the same program twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Component,
    Process,
}

impl Kind {
    /// `tests/guests`: does what a test asks it to.
    fn probe(self) -> (Spec, Bytes) {
        self.program("tests/guests/probe.wasm", "tests/guests/probe.py")
    }

    /// `examples/link-shortener`.
    fn shortener(self) -> (Spec, Bytes) {
        self.program("examples/link-shortener/component.wasm", "examples/link-shortener/process/main.py")
    }

    fn program(self, component: &str, process: &str) -> (Spec, Bytes) {
        match self {
            Self::Component => (Spec::new(Runtime::Wasm), std::fs::read(file(component)).unwrap().into()),
            Self::Process => {
                let mut spec = Spec::new(Runtime::Process);
                spec.command = vec!["python3".into(), "main.py".into()];
                (spec, archive("main.py", &std::fs::read(file(process)).unwrap()))
            }
        }
    }
}

/// Set where tests that need Python must not be skipped.
const REQUIRED: &str = "TRIMARAN_TEST_PYTHON_REQUIRED";

impl Kind {
    /// False, with a word about it, where this machine has not what programs of this kind are written in.
    #[allow(clippy::disallowed_methods, reason = "how the machine that must run it says so")]
    fn is_here(self) -> bool {
        let python = || std::process::Command::new("python3").arg("--version").output();
        if self == Self::Component || python().is_ok_and(|output| output.status.success()) {
            return true;
        }
        assert!(std::env::var_os(REQUIRED).is_none(), "python3 is not here");
        println!("SKIPPED: python3 is not here");
        false
    }
}

/// A process with everything, and a client of its functions.
async fn dev() -> (Dev, Functions) {
    let dev = Dev::start(&["--in-memory", "--no-example"]).await;
    let functions = Functions::connect([dev.node.grpc.clone()]).unwrap();
    (dev, functions)
}
