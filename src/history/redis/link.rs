//! Connections: made when needed, given up when broken or silent, shared by all callers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Pipeline, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use super::{
    super::{StoreError, user_key::UserKey},
    RedisOptions,
    cluster::{self, NODE_SILENCE, Nodes, Owners},
    silence::Silence,
    url::{Kind, Target, Tls},
};

/// A connection that has not answered anything for this long, although it was asked, is given up: the host may be gone
/// without a word.
const SILENCE: Duration = Duration::from_secs(2);
/// A Cluster's client asks a node that doesn't answer for this long again, twice.
const CLUSTER_RESPONSE: Duration = Duration::from_secs(1);
/// A Cluster's client replaces connections to single nodes by itself. Only one of whose nodes none has answered for
/// this long is made anew, from the URL.
const CLUSTER_SILENCE: Duration = Duration::from_secs(6);
/// A Cluster is known from the nodes of the URL that answer, once the others have had their time to connect; then all
/// its nodes are connected.
const CLUSTER_CONNECTS: u32 = 3;
/// Callers that come this soon after a failed attempt to connect share its error.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One connection, made anew as often as needed.
pub(super) struct Link {
    source: Source,
    current: Mutex<Current>,
    connect_timeout: Duration,
    started: Instant,
    /// A place for whoever follows a Cluster's failover.
    following: Semaphore,
}

enum Source {
    Server(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<redis::cluster::ClusterClient>),
}

#[derive(Default)]
struct Current {
    live: Option<Live>,
    made: u64,
    failed: Option<(Instant, RedisError)>,
}

#[derive(Clone)]
struct Live {
    connection: Connection,
    number: u64,
    silence: Arc<Silence>,
    /// When it last answered, or was made ([`Link::clock`]).
    answered_at: Arc<AtomicU64>,
    /// Of a Cluster.
    nodes: Option<Arc<Nodes>>,
}

#[derive(Clone)]
enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) fn new(target: &Target, options: &RedisOptions) -> Result<Arc<Self>, StoreError> {
        let source = Source::new(target, options)?;
        let attempts = if matches!(source, Source::Cluster(_)) { CLUSTER_CONNECTS } else { 1 };
        let connect_timeout = attempts * options.connect_timeout;
        let (current, started, following) = (Mutex::default(), Instant::now(), Semaphore::new(1));
        Ok(Arc::new(Self { source, current, connect_timeout, started, following }))
    }

    /// Sends commands once, in order, and returns the answer to each. In a Cluster they must concern this user only.
    ///
    /// The caller's timeout cancels it; the connection lives on.
    pub(super) async fn send(
        self: &Arc<Self>,
        pipeline: &Pipeline,
        user: &UserKey,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        let live = self.live().await?;
        let silence = SilenceGuard::begin(self, &live);
        let answers = match live.connection.clone() {
            Connection::Node(mut connection) => pipeline.query_async(&mut connection).await,
            Connection::Cluster(connection) => self.send_to_cluster(&live, connection, pipeline, user).await,
        };
        silence.answered();
        match &answers {
            Err(_) if self.is_alive(&live) => {}
            Err(_) => self.give_up(live.number).await,
            // A primary that became a replica: Sentinel or the name service knows the new one.
            Ok(answers) if answers.iter().any(|answer| answer.as_ref().is_err_and(is_demoted)) => {
                self.give_up(live.number).await;
            }
            Ok(_) => live.answered_at.store(self.clock(), Ordering::Relaxed),
        }
        answers
    }

    /// Goes on after its caller's deadline: what nobody waits for any more the client drops, and only by its own
    /// timeout does one learn that a node is silent.
    async fn send_to_cluster(
        self: &Arc<Self>,
        live: &Live,
        mut connection: ClusterConnection,
        pipeline: &Pipeline,
        user: &UserKey,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        let (link, live, pipeline, user) = (self.clone(), live.clone(), pipeline.clone(), *user);
        let place = live.nodes.as_ref().map(|nodes| nodes.of(&user).place()).transpose()?;
        let sent = tokio::spawn(async move {
            let _place = place;
            live.silence_of(&user).asked();
            let answers = cluster::send(&mut connection, &pipeline).await;
            if answers.is_ok() {
                live.silence_of(&user).answered();
            }
            if answers.as_ref().is_err_and(RedisError::is_timeout) {
                link.follow_failover(&live, connection).await;
            }
            answers
        });
        sent.await.unwrap_or_else(|failed| Err(std::io::Error::other(failed.to_string()).into()))
    }

    /// A node of a Cluster is silent: connects anew if others have taken slots over. One at a time; meanwhile all go on
    /// with the connection that there is, which serves the other nodes' users.
    async fn follow_failover(&self, live: &Live, mut connection: ClusterConnection) {
        let Ok(_following) = self.following.try_acquire() else { return };
        let replaced = async || self.current.lock().await.live.as_ref().is_none_or(|now| now.number != live.number);
        if replaced().await {
            return;
        }
        match cluster::owners(&mut connection).await {
            Ok(owners) if live.nodes.as_ref().is_none_or(|nodes| *nodes.owners() != owners) => {}
            _ => return,
        }
        tracing::warn!("a node of the Cluster is silent, and slots have other owners: connecting anew");
        let connected = tokio::time::timeout(self.connect_timeout, self.source.connect(self.connect_timeout)).await;
        if let Ok(Ok(connection)) = connected {
            let made = self.made(connection).await;
            let mut current = self.current.lock().await;
            current.made += 1;
            current.live = Some(Live { number: current.made, ..made });
        }
    }

    /// What is known of a new connection.
    async fn made(&self, connection: Connection) -> Live {
        let nodes = match connection.clone() {
            Connection::Node(_) => None,
            Connection::Cluster(mut connection) => {
                let owners = cluster::owners(&mut connection).await.unwrap_or_else(|_| Owners::new());
                Some(Arc::new(Nodes::new(owners)))
            }
        };
        let answered_at = Arc::new(AtomicU64::new(self.clock()));
        Live { connection, number: 0, silence: Arc::new(Silence::new()), answered_at, nodes }
    }

    /// Whether whoever has the user has been asked for a while and answered nobody.
    pub(super) fn is_silent(&self, user: &UserKey) -> bool {
        // Held for longer only while a connection is made: who is there then is not known.
        let Ok(current) = self.current.try_lock() else { return false };
        current.live.as_ref().is_some_and(|live| live.silence_of(user).lasts() >= NODE_SILENCE)
    }

    /// Whether others of a Cluster's nodes have answered lately.
    fn is_alive(&self, live: &Live) -> bool {
        let silent_for = self.clock().saturating_sub(live.answered_at.load(Ordering::Relaxed));
        matches!(live.connection, Connection::Cluster(_)) && u128::from(silent_for) < CLUSTER_SILENCE.as_millis()
    }

    /// Lets the next call connect anew.
    pub(super) async fn forget(&self) {
        self.current.lock().await.live = None;
    }

    /// The connection; a new one if there is none.
    async fn live(self: &Arc<Self>) -> RedisResult<Live> {
        if let Some(live) = &self.current.lock().await.live {
            return Ok(live.clone());
        }
        // In a task of its own, so that a caller's deadline does not cut an attempt short that others wait for.
        let link = self.clone();
        tokio::spawn(async move { link.connect().await })
            .await
            .unwrap_or_else(|failed| Err(std::io::Error::other(failed.to_string()).into()))
    }

    async fn connect(&self) -> RedisResult<Live> {
        let mut current = self.current.lock().await;
        if let Some(live) = &current.live {
            return Ok(live.clone());
        }
        if let Some((at, error)) = &current.failed
            && at.elapsed() < CONNECT_AGAIN_AFTER
        {
            return Err(error.clone());
        }
        let connected = tokio::time::timeout(self.connect_timeout, self.source.connect(self.connect_timeout)).await;
        match connected.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())) {
            Ok(connection) => {
                current.made += 1;
                current.failed = None;
                let live = Live { number: current.made, ..self.made(connection).await };
                current.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                current.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Forgets a connection, unless it has been replaced already.
    async fn give_up(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.live.as_ref().is_some_and(|live| live.number == number) {
            current.live = None;
        }
    }

    /// Milliseconds since the beginning, from 1.
    fn clock(&self) -> u64 {
        1 + self.started.elapsed().as_millis() as u64
    }
}

impl Live {
    /// Of whoever has the user.
    fn silence_of(&self, user: &UserKey) -> &Silence {
        self.nodes.as_ref().map_or(&*self.silence, |nodes| &nodes.of(user).silence)
    }
}

/// Notices, when a call is cancelled by its deadline, that the connection has been silent for too long.
struct SilenceGuard<'a> {
    link: &'a Arc<Link>,
    live: &'a Live,
    answered: bool,
}

impl<'a> SilenceGuard<'a> {
    fn begin(link: &'a Arc<Link>, live: &'a Live) -> Self {
        live.silence.asked();
        Self { link, live, answered: false }
    }

    fn answered(mut self) {
        self.answered = true;
        self.live.silence.answered();
    }
}

impl Drop for SilenceGuard<'_> {
    fn drop(&mut self) {
        if !self.answered
            && self.live.silence.lasts() > SILENCE
            && let Ok(mut current) = self.link.current.try_lock()
            && current.live.as_ref().is_some_and(|live| live.number == self.live.number)
        {
            current.live = None;
        }
    }
}

impl Source {
    fn new(target: &Target, options: &RedisOptions) -> Result<Self, StoreError> {
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

    async fn connect(&self, timeout: Duration) -> RedisResult<Connection> {
        // Callers bring their own deadlines; the library's default of 500 ms would cut longer ones short.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(Some(timeout));
        match self {
            Self::Server(client) => node(client, &config).await,
            Self::Sentinel(sentinel) => {
                let client = sentinel.lock().await.async_get_client().await?;
                node(&client, &config).await
            }
            Self::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
        }
    }
}

async fn node(client: &Client, config: &AsyncConnectionConfig) -> RedisResult<Connection> {
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    // A server that wants a password takes the connection but no long command: ask it something short.
    match redis::cmd("PING").exec_async(&mut connection).await {
        // It can't save what is written, and refuses this, too; it reads.
        Err(error) if error.code() == Some("MISCONF") => {}
        answer => answer?,
    }
    Ok(Connection::Node(connection))
}

pub(super) fn is_demoted(error: &RedisError) -> bool {
    matches!(code(error), Some("READONLY" | "MASTERDOWN" | "UNBLOCKED"))
}

/// What Redis calls the error. Redis 6 calls all within scripts ERR, and has what they are in the text: `…
/// @user_script:5: WRONGTYPE Operation …`, or `… @user_script: 5: -READONLY You can't write …`.
pub(super) fn code(error: &RedisError) -> Option<&str> {
    let detail = error.detail().filter(|detail| error.code() == Some("ERR") && detail.contains("@user_script"));
    let is_code = |word: &&str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    let words = detail.into_iter().flat_map(|detail| detail.split(' '));
    let wrapped = words.map(|word| word.strip_prefix('-').unwrap_or(word)).find(is_code);
    wrapped.or_else(|| error.code())
}

/// Whether a script stumbled over what it read: errors of Lua, not of a command that it called.
pub(super) fn is_a_scripts_own(detail: &str) -> bool {
    detail.contains("user_script")
        && ["attempt to ", "bad argument ", "data string too short"].iter().any(|words| detail.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_within_scripts_have_their_codes_in_any_redis() {
        let error = |text: &str| {
            let (code, detail) = text.split_once(' ').expect("a code");
            redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
        };
        for (text, expected, own) in [
            ("READONLY You can't write against a read only replica. script: 1f, on @user_script:5.", "READONLY", false),
            (
                "ERR Error running script (call to f_1f): @user_script:299: @user_script: 299: -NOREPLICAS Not enough good \
                 replicas to write.",
                "NOREPLICAS",
                false,
            ),
            (
                "ERR Error running script (call to f_1f): @user_script:7: WRONGTYPE Operation against a \
                 key holding the wrong kind of value",
                "WRONGTYPE",
                false,
            ),
            (
                "ERR user_script:39: attempt to perform arithmetic on a nil value script: 1f, on @user_script:39.",
                "ERR",
                true,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: 1f, on @user_script:5.",
                "ERR",
                false,
            ),
            ("ERR max number of clients reached", "ERR", false),
        ] {
            let error = error(text);
            assert_eq!(code(&error), Some(expected), "{text}");
            assert_eq!(error.detail().is_some_and(is_a_scripts_own), own, "{text}");
        }
    }
}
