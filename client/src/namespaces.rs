//! Namespaces of a grid: what the keys of a tenant may use. The namespace of a key is what it has before its first colon, without a
//! brace that it begins with: "orders" of "orders:17" and of "{orders:17}:lines".

use std::time::Duration;

use trimaran_placement::token::Token;
use trimaran_proto::api::namespaces::namespaces_client::NamespacesClient;
use trimaran_proto::api::namespaces::{DeleteRequest, ListRequest, PutRequest};
pub use trimaran_proto::api::namespaces::{Namespace, Quotas};

use crate::error::Error;
use crate::grid::Grid;

/// What it may take longer for the cluster to agree.
const PATIENCE: Duration = Duration::from_secs(8);

impl Grid {
    /// Makes a namespace, or gives it other quotas.
    ///
    /// Errors: [`Error::Invalid`] with the field that is wrong.
    pub async fn put_namespace(&self, name: impl Into<String>, quotas: Quotas) -> Result<(), Error> {
        let request = PutRequest { name: name.into(), quotas: Some(quotas) };
        let put = |channel| {
            let (mut client, request) = (NamespacesClient::new(channel), request.clone());
            async move { client.put(request).await }
        };
        self.asked(Token(0), PATIENCE, put).await.map(drop)
    }

    /// Takes the quotas of a namespace away; false if there is none of that name. The keys stay.
    pub async fn delete_namespace(&self, name: impl Into<String>) -> Result<bool, Error> {
        let request = DeleteRequest { name: name.into() };
        let delete = |channel| {
            let (mut client, request) = (NamespacesClient::new(channel), request.clone());
            async move { client.delete(request).await }
        };
        Ok(self.asked(Token(0), PATIENCE, delete).await?.deleted)
    }

    /// All namespaces by name, with what they use in the cluster.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        let list = |channel| {
            let mut client = NamespacesClient::new(channel);
            async move { client.list(ListRequest {}).await }
        };
        Ok(self.asked(Token(0), Duration::ZERO, list).await?.namespaces)
    }
}
