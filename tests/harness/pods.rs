//! As much of Kubernetes as a stateful set takes, in containers of this machine's engine: an API that shows and changes its
//! scale, and somebody who starts and ends its pods accordingly, the `preStop` hook first.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use base64::Engine as _;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::compose::{Image, docker, show_log};
use super::process::free_port;

/// Name of the set, of its service, and of its namespace.
const SET: &str = "grid";
const NAMESPACE: &str = "default";

/// Where a network has this machine.
const MACHINE_FORMAT: &str = "{{(index .IPAM.Config 0).Gateway}}";

/// What a set is called in the API.
#[derive(Default)]
struct Scale {
    replicas: AtomicU32,
    /// Grows with every change; who has seen another one may not change it.
    version: AtomicU64,
    changed: Notify,
    /// The hook is asked about a number that nobody acts upon.
    is_held: AtomicBool,
}

impl Scale {
    fn show(&self) -> Value {
        json!({
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {
                "name": SET,
                "namespace": NAMESPACE,
                "resourceVersion": self.version.load(Ordering::SeqCst).to_string(),
            },
            "spec": { "replicas": self.replicas.load(Ordering::SeqCst) },
            "status": { "replicas": self.replicas.load(Ordering::SeqCst), "selector": "" },
        })
    }

    fn replace(&self, asked: &Value) -> Result<(), &'static str> {
        let version = self.version.load(Ordering::SeqCst);
        if asked["metadata"]["resourceVersion"] != json!(version.to_string()) {
            return Err("Conflict");
        }
        let replicas = asked["spec"]["replicas"].as_u64().and_then(|count| u32::try_from(count).ok());
        self.replicas.store(replicas.ok_or("Invalid")?, Ordering::SeqCst);
        self.version.store(version + 1, Ordering::SeqCst);
        self.changed.notify_one();
        Ok(())
    }
}

async fn answer(scale: Arc<Scale>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{SET}/scale");
    let method = request.method().clone();
    let is_it = request.uri().path() == path;
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let failed = |code: StatusCode, reason: &str| {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
            "message": reason, "code": code.as_u16() });
        (code, status)
    };
    let (code, text) = if !is_it {
        failed(StatusCode::NOT_FOUND, "NotFound")
    } else if method == Method::GET {
        (StatusCode::OK, scale.show())
    } else if method == Method::PUT {
        match scale.replace(&serde_json::from_slice(&body).unwrap_or_default()) {
            Ok(()) => (StatusCode::OK, scale.show()),
            Err(reason) => failed(StatusCode::CONFLICT, reason),
        }
    } else {
        failed(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")
    };
    let response = Response::builder().status(code).header("content-type", "application/json");
    Ok(response.body(Full::from(text.to_string())).unwrap())
}

/// A stateful set of grid-nodes, gone with this.
pub struct Pods {
    prefix: String,
    image: Image,
    arguments: Vec<String>,
    scale: Arc<Scale>,
    config: tempfile::NamedTempFile,
    tasks: Vec<JoinHandle<()>>,
}

impl Pods {
    /// Starts a set of `replicas` nodes with further arguments. `None`, with a word about it, where this machine has not
    /// what it takes.
    pub async fn start(replicas: u32, arguments: &[&str]) -> Option<Arc<Self>> {
        let image = Image::build()?;
        let prefix = format!("trimaran-pods-{}-{}", std::process::id(), free_port());
        docker(&["network", "create", &prefix]).unwrap();
        // The engine does not always say it of its own network.
        let machine = docker(&["network", "inspect", &prefix, "-f", MACHINE_FORMAT]).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let server = SocketAddr::new(machine.parse().unwrap(), listener.local_addr().unwrap().port());
        let config = tempfile::NamedTempFile::new().unwrap();
        let signed = rcgen::generate_simple_self_signed([server.ip().to_string()]).unwrap();
        let authority = base64::engine::general_purpose::STANDARD.encode(signed.cert.pem());
        let cluster =
            json!({ "server": format!("https://{server}"), "certificate-authority-data": authority });
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{ "name": "here", "cluster": cluster }],
            "users": [{ "name": "pod", "user": {} }],
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "pod", "namespace": NAMESPACE } }],
        });
        std::fs::write(config.path(), text.to_string()).unwrap();
        let scale = Arc::new(Scale::default());
        scale.replicas.store(replicas, Ordering::SeqCst);
        let shown = Arc::clone(&scale);
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let tls =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let api = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (scale, tls) = (Arc::clone(&shown), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&scale), request));
                    let connection = tls.accept(connection).await.unwrap();
                    let serve = hyper::server::conn::http1::Builder::new();
                    let _closed = serve.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut pods = Self { prefix, image, arguments, scale, config, tasks: vec![api] };
        let control = pods.controller();
        pods.tasks.push(control);
        Some(Arc::new(pods))
    }

    /// Makes the containers as many as the scale says, for ever.
    fn controller(&self) -> JoinHandle<()> {
        let (prefix, image, scale) =
            (self.prefix.clone(), self.image.name().to_owned(), Arc::clone(&self.scale));
        let (config, arguments) = (self.config.path().display().to_string(), self.arguments.clone());
        tokio::spawn(async move {
            let mut running = 0;
            loop {
                let wanted = scale.replicas.load(Ordering::SeqCst);
                let is_held = scale.is_held.load(Ordering::SeqCst);
                let (prefix, image) = (prefix.clone(), image.clone());
                let (config, arguments) = (config.clone(), arguments.clone());
                let change = move || match wanted {
                    wanted if wanted > running => start(&prefix, &image, &config, running, &arguments),
                    wanted if wanted < running => end(&prefix, running - 1),
                    _ => {}
                };
                if wanted == running || is_held {
                    scale.changed.notified().await;
                    continue;
                }
                tokio::task::spawn_blocking(change).await.unwrap();
                running = if wanted > running { running + 1 } else { running - 1 };
            }
        })
    }

    /// Pods that there should be.
    pub fn replicas(&self) -> u32 {
        self.scale.replicas.load(Ordering::SeqCst)
    }

    /// Says that there should be so many, as `kubectl scale` does; with nobody who acts upon it, so that only hooks see it.
    pub fn say(&self, replicas: u32) {
        self.scale.is_held.store(true, Ordering::SeqCst);
        self.scale.replicas.store(replicas, Ordering::SeqCst);
        self.scale.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Runs the hook of a pod, and shows what it says; `None` if it fails.
    pub async fn pre_stop(&self, number: u32) -> Option<String> {
        let name = format!("{}-{SET}-{number}", self.prefix);
        tokio::task::spawn_blocking(move || pre_stop(&name)).await.unwrap()
    }

    /// The address of a pod, where this machine reaches it; `None` if there is none.
    pub fn address(&self, number: u32, port: u16) -> Option<String> {
        let name = format!("{}-{SET}-{number}", self.prefix);
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let ip = docker(&["inspect", "-f", format, &name]).filter(|ip| !ip.is_empty())?;
        Some(format!("{ip}:{port}"))
    }

    /// Containers that there are, ended ones too.
    pub fn containers(&self) -> Vec<String> {
        let names =
            docker(&["ps", "-a", "--filter", &format!("name={}-", self.prefix), "--format", "{{.Names}}"]);
        names.unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// As in the manifest.
fn pre_stop(name: &str) -> Option<String> {
    let hook = ["trimaran", "cluster", "drain", "--if-scaled-in", "--address", "127.0.0.1:7002"];
    docker(&[&["exec", name], &hook[..]].concat())
}

fn start(prefix: &str, image: &str, config: &str, number: u32, arguments: &[String]) {
    let (pod, name) = (format!("{SET}-{number}"), format!("{prefix}-{SET}-{number}"));
    let address = format!("{pod}.{SET}:7002");
    let join =
        format!(r#"TRIMARAN_GRID_JOIN=["{SET}-0.{SET}:7002","{SET}-1.{SET}:7002","{SET}-2.{SET}:7002"]"#);
    let run = [
        "run",
        "-d",
        "--restart",
        "always",
        "--name",
        &name,
        "--hostname",
        &pod,
        "--network",
        prefix,
        "--network-alias",
        &format!("{pod}.{SET}"),
        "-v",
        &format!("{config}:/kubeconfig:ro"),
        "-v",
        "/var/lib/trimaran",
        "-e",
        "KUBECONFIG=/kubeconfig",
        "-e",
        "TRIMARAN_GRID_RESP_LISTEN=0.0.0.0:6379",
        "-e",
        "TRIMARAN_GRID_GRPC_LISTEN=0.0.0.0:7002",
        "-e",
        "TRIMARAN_GRID_DATA_FOLDER=/var/lib/trimaran",
        "-e",
        "TRIMARAN_GRID_BOOTSTRAP=3",
        "-e",
        &join,
        image,
        "grid-node",
        "--advertise",
        &address,
        "--autoscale",
        "kubernetes",
    ];
    let arguments: Vec<&str> = run.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    docker(&arguments).unwrap();
}

fn end(prefix: &str, number: u32) {
    let name = format!("{prefix}-{SET}-{number}");
    // Of a container that has ended there is nothing to ask.
    let _said = pre_stop(&name);
    docker(&["rm", "--force", "--volumes", &name]).unwrap();
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for container in self.containers() {
            if std::thread::panicking() {
                show_log(&container);
            }
            let _gone = docker(&["rm", "--force", "--volumes", &container]);
        }
        let _gone = docker(&["network", "rm", &self.prefix]);
    }
}
