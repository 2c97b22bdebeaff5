//! Where connections come from: a server, the primary that a Sentinel names, a Cluster.

use std::{io, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, RedisError, RedisResult, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{sync::Mutex, time::timeout};

use super::{
    super::StoreError,
    RedisOptions,
    cluster::Cluster,
    url::{Kind, Target, Tls},
};

/// A Cluster's client asks a node that doesn't answer for this long again, twice.
const CLUSTER_RESPONSE: Duration = Duration::from_secs(1);

pub(super) enum Source {
    Server(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
pub(super) enum Connection {
    Node(MultiplexedConnection),
    Cluster(Cluster),
}

impl Source {
    pub(super) fn new(target: &Target, options: &RedisOptions) -> Result<Self, StoreError> {
        let config = |error: RedisError| StoreError::Config(format!("Redis at {}: {error}", target.display()));
        let certificates = || TlsCertificates { client_tls: None, root_cert: options.root_certificate.clone() };
        let secure = target.tls == Tls::On;
        match &target.kind {
            Kind::Server => {
                let info = target.connection(&target.hosts[0])?;
                let client = if secure { Client::build_with_tls(info, certificates()) } else { Client::open(info) };
                Ok(Self::Server(Box::new(client.map_err(config)?)))
            }
            Kind::Sentinel { service, login } => {
                let sentinels = target.hosts.iter().map(|host| Ok(target.connection(host)?.addr().clone()));
                let sentinels = sentinels.collect::<Result<Vec<_>, StoreError>>()?;
                let mut builder = SentinelClientBuilder::new(sentinels, service.clone(), SentinelServerType::Master)
                    .map_err(config)?
                    .set_client_to_redis_db(target.login.db());
                if let Some(user) = target.login.username() {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = target.login.password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(user) = login.username() {
                    builder = builder.set_client_to_sentinel_username(user);
                }
                if let Some(password) = login.password() {
                    builder = builder.set_client_to_sentinel_password(password);
                }
                if secure {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates())
                        .set_client_to_sentinel_certificates(certificates());
                }
                Ok(Self::Sentinel(Box::new(Mutex::new(builder.build().map_err(config)?))))
            }
            Kind::Cluster => {
                let nodes = target.hosts.iter().map(|host| target.connection(host));
                let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .retries(2)
                    .connection_timeout(options.connect_timeout)
                    .response_timeout(CLUSTER_RESPONSE);
                if secure {
                    builder = builder.tls(TlsMode::Secure).certs(certificates());
                }
                Ok(Self::Cluster(Box::new(builder.build().map_err(config)?)))
            }
        }
    }

    /// Connects within `limit`. A Cluster is then asked who owns its slots, for as long as its client waits.
    pub(super) async fn connect(&self, limit: Duration) -> RedisResult<Connection> {
        // Callers bring their own deadlines; the library's default of 500 ms would cut longer ones short.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(Some(limit));
        match self {
            Self::Server(client) => within(limit, node(client, &config)).await.map(Connection::Node),
            Self::Sentinel(sentinel) => {
                let connecting = async {
                    let client = sentinel.lock().await.async_get_client().await?;
                    node(&client, &config).await
                };
                within(limit, connecting).await.map(Connection::Node)
            }
            Self::Cluster(client) => {
                let connection = within(limit, client.get_async_connection()).await?;
                Ok(Connection::Cluster(Cluster::new(connection).await))
            }
        }
    }
}

/// Times out at `limit`, whichever step it has come to.
async fn within<T>(limit: Duration, connecting: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

async fn node(client: &Client, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    // A server that wants a password takes the connection but no long command: ask it something short.
    match redis::cmd("PING").exec_async(&mut connection).await {
        // It can't save what is written, and refuses this, too; it reads.
        Err(error) if error.code() == Some("MISCONF") => {}
        answer => answer?,
    }
    Ok(connection)
}
