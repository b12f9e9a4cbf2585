//! Nodes as containers beside the one that this node is in: same image, same networks, same options, a volume of their own.
//!
//! The node reaches the engine by its socket, which its container must have been given. A started container has a label,
//! so that every node of the cluster knows what the others have started.

use std::collections::{BTreeSet, HashMap};

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, EndpointSettings, HostConfig, Mount,
    MountPoint, MountType, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions,
};
use tokio::sync::OnceCell;

use super::{Actor, Failed};

/// What a started container is labelled with: the kind of its cluster.
const LABEL: &str = "trimaran.autoscaled";

/// The address that others are to reach the node by.
const ADDRESS_LABEL: &str = "trimaran.address";

/// Of docker-compose.
const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";

/// Options that each node has of its own, as flags and as the ends of environment variables.
const OWN_OPTIONS: [&str; 4] = ["--advertise", "--resp-advertise", "--bootstrap", "--join"];
const OWN_VARIABLES: [&str; 4] = ["ADVERTISE", "RESP_ADVERTISE", "BOOTSTRAP", "JOIN"];

/// Starts containers.
pub struct Containers {
    /// "grid" or "shard".
    kind: &'static str,
    /// Environment variables that begin so are options.
    env_prefix: &'static str,
    /// Where a node takes gRPC in its container.
    grpc_port: u16,
    docker: OnceCell<Docker>,
}

impl std::fmt::Debug for Containers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Containers {
    /// Starts containers like the one that this process is in.
    pub fn new(kind: &'static str, env_prefix: &'static str, grpc_port: u16) -> Self {
        Self { kind, env_prefix, grpc_port, docker: OnceCell::new() }
    }

    async fn docker(&self) -> Result<&Docker, Failed> {
        let connect = async || {
            let docker = Docker::connect_with_unix_defaults()?;
            docker.negotiate_version().await
        };
        let docker = self.docker.get_or_try_init(connect).await;
        docker.map_err(|error| Failed::new("the container engine is not reached by its socket", error))
    }

    /// The container that this process is in: its host name is its id, unless somebody gave it another one.
    async fn own(&self) -> Result<ContainerInspectResponse, Failed> {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let own = self.docker().await?.inspect_container(&name, None::<InspectContainerOptions>).await;
        own.map_err(|error| Failed::new("this node does not find its own container", error))
    }

    /// Containers that were started like this, in this project.
    async fn all(&self) -> Result<Vec<ContainerSummary>, Failed> {
        let project = label(&self.own().await?, PROJECT_LABEL).unwrap_or_default();
        let wanted = vec![format!("{LABEL}={}", self.kind)];
        let filters = HashMap::from([("label".to_owned(), wanted)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let all = self.docker().await?.list_containers(Some(options)).await;
        let mut all = all.map_err(|error| Failed::new("the engine does not list its containers", error))?;
        all.retain(|found| {
            let labels = found.labels.as_ref();
            labels.and_then(|labels| labels.get(PROJECT_LABEL)).is_none_or(|found| *found == project)
        });
        Ok(all)
    }
}

fn label(container: &ContainerInspectResponse, name: &str) -> Option<String> {
    container.config.as_ref()?.labels.as_ref()?.get(name).cloned()
}

fn name(container: &ContainerSummary) -> Option<String> {
    container.names.as_ref()?.first().map(|name| name.trim_start_matches('/').to_owned())
}

/// Arguments without the options that each node has of its own.
fn arguments(own: &[String], name: &str, port: u16, members: &[String]) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut rest = own.iter();
    while let Some(argument) = rest.next() {
        if OWN_OPTIONS.contains(&argument.as_str()) {
            rest.next();
        } else if !OWN_OPTIONS.iter().any(|option| argument.starts_with(&format!("{option}="))) {
            arguments.push(argument.clone());
        }
    }
    arguments.extend(["--advertise".to_owned(), format!("{name}:{port}")]);
    arguments.extend(["--join".to_owned(), members.join(",")]);
    arguments
}

/// Environment variables without those that each node has of its own.
fn environment(own: &[String], prefix: &str) -> Vec<String> {
    let is_own = |variable: &&String| {
        let name = variable.split('=').next().unwrap_or_default();
        name.strip_prefix(prefix).is_some_and(|option| OWN_VARIABLES.contains(&option))
    };
    own.iter().filter(|variable| !is_own(variable)).cloned().collect()
}

/// A volume of its own where the other node has one; what is of the machine, the engine's socket say, as it is there.
fn mounts(own: &[MountPoint]) -> Vec<Mount> {
    own.iter()
        .map(|mount| {
            let is_volume = mount.typ.as_deref() == Some("volume");
            Mount {
                target: mount.destination.clone(),
                source: if is_volume { None } else { mount.source.clone() },
                typ: Some(if is_volume { MountType::VOLUME } else { MountType::BIND }),
                read_only: mount.rw.map(|writable| !writable),
                ..Mount::default()
            }
        })
        .collect()
}

#[async_trait::async_trait]
impl Actor for Containers {
    async fn start(&self, members: &[String]) -> Result<(), Failed> {
        let own = self.own().await?;
        let unusual = |what| Failed::new("this node's own container cannot be copied", what);
        let config = own.config.as_ref().ok_or_else(|| unusual("it has no configuration"))?;
        let project = label(&own, PROJECT_LABEL);
        let taken: BTreeSet<String> = self.all().await?.iter().filter_map(name).collect();
        let begins = project.clone().unwrap_or_else(|| "trimaran".to_owned());
        let name = (1..)
            .map(|number| format!("{begins}-{}-auto-{number}", self.kind))
            .find(|name| !taken.contains(name))
            .ok_or_else(|| unusual("no name is left"))?;
        // What all nodes of its service are called by, the container itself left out.
        let own_names = [
            own.id.clone().unwrap_or_default().chars().take(12).collect(),
            own.name.clone().unwrap_or_default().trim_start_matches('/').to_owned(),
            label(&own, SERVICE_LABEL).unwrap_or_default(),
        ];
        let networks = own.network_settings.as_ref().and_then(|settings| settings.networks.clone());
        let endpoints = networks.unwrap_or_default().into_iter().map(|(network, endpoint)| {
            let mut aliases = endpoint.aliases.unwrap_or_default();
            aliases.retain(|alias| !own_names.contains(alias));
            (network, EndpointSettings { aliases: Some(aliases), ..EndpointSettings::default() })
        });
        let endpoints: HashMap<String, EndpointSettings> = endpoints.collect();
        let network = endpoints.keys().min().cloned();
        let mut labels = HashMap::from([
            (LABEL.to_owned(), self.kind.to_owned()),
            (ADDRESS_LABEL.to_owned(), format!("{name}:{}", self.grpc_port)),
        ]);
        if let Some(project) = project {
            labels.insert(PROJECT_LABEL.to_owned(), project);
            labels.insert(SERVICE_LABEL.to_owned(), format!("{}-auto", self.kind));
            labels.insert("com.docker.compose.oneoff".to_owned(), "False".to_owned());
            labels.insert("com.docker.compose.container-number".to_owned(), "1".to_owned());
        }
        let limits = own.host_config.clone().unwrap_or_default();
        let body = ContainerCreateBody {
            image: config.image.clone(),
            cmd: Some(arguments(config.cmd.as_deref().unwrap_or_default(), &name, self.grpc_port, members)),
            entrypoint: config.entrypoint.clone(),
            env: Some(environment(config.env.as_deref().unwrap_or_default(), self.env_prefix)),
            labels: Some(labels),
            healthcheck: config.healthcheck.clone(),
            stop_timeout: config.stop_timeout,
            host_config: Some(HostConfig {
                mounts: Some(mounts(own.mounts.as_deref().unwrap_or_default())),
                network_mode: network,
                // It ends by itself when it is drained, and stays so.
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::ON_FAILURE),
                    ..RestartPolicy::default()
                }),
                memory: limits.memory,
                nano_cpus: limits.nano_cpus,
                ..HostConfig::default()
            }),
            networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
            ..ContainerCreateBody::default()
        };
        let docker = self.docker().await?;
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = docker.create_container(Some(options), body).await;
        made.map_err(|error| Failed::new("a container cannot be made", error))?;
        let started = docker.start_container(&name, None::<StartContainerOptions>).await;
        started.map_err(|error| Failed::new("a container cannot be started", error))
    }

    async fn started(&self) -> Result<BTreeSet<String>, Failed> {
        let address = |found: &ContainerSummary| found.labels.as_ref()?.get(ADDRESS_LABEL).cloned();
        Ok(self.all().await?.iter().filter_map(address).collect())
    }

    async fn clear(&self, address: &str) -> Result<(), Failed> {
        for found in self.all().await? {
            let labels = found.labels.as_ref();
            let is_it = labels.and_then(|labels| labels.get(ADDRESS_LABEL)).is_some_and(|of| of == address);
            let Some(name) = name(&found).filter(|_| is_it) else { continue };
            let options = RemoveContainerOptionsBuilder::new().v(true).force(true).build();
            let removed = self.docker().await?.remove_container(&name, Some(options)).await;
            removed.map_err(|error| Failed::new("a container cannot be removed", error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_sibling_has_the_same_options_but_its_own_name_and_the_members() {
        let own =
            ["grid-node", "--advertise", "grid-1:7002", "--bootstrap=3", "--log", "debug", "--join", "a:1"];
        assert_eq!(
            arguments(&texts(&own), "x", 7002, &texts(&["a:1", "b:2"])),
            ["grid-node", "--log", "debug", "--advertise", "x:7002", "--join", "a:1,b:2"]
        );
        let own =
            ["TRIMARAN_GRID_JOIN=[]", "TRIMARAN_GRID_BOOTSTRAP=3", "TRIMARAN_GRID_JOINT=1", "PATH=/bin"];
        assert_eq!(environment(&texts(&own), "TRIMARAN_GRID_"), ["TRIMARAN_GRID_JOINT=1", "PATH=/bin"]);
    }

    #[test]
    fn a_sibling_has_a_volume_of_its_own_and_the_same_socket() {
        let own = [
            MountPoint {
                typ: Some("volume".to_owned()),
                name: Some("grid-1".to_owned()),
                source: Some("/var/lib/docker/volumes/grid-1".to_owned()),
                destination: Some("/var/lib/trimaran".to_owned()),
                rw: Some(true),
                ..MountPoint::default()
            },
            MountPoint {
                typ: Some("bind".to_owned()),
                source: Some("/var/run/docker.sock".to_owned()),
                destination: Some("/var/run/docker.sock".to_owned()),
                rw: Some(true),
                ..MountPoint::default()
            },
        ];
        let mounts = mounts(&own);
        assert_eq!((mounts[0].typ, mounts[0].source.clone()), (Some(MountType::VOLUME), None));
        assert_eq!(mounts[1].source.as_deref(), Some("/var/run/docker.sock"));
    }
}
