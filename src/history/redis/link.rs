//! Connections: made when needed, given up when broken or silent, shared by all callers.

use std::{io, sync::Arc, time::Duration};

use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinError,
    time::Instant,
};

use super::{
    super::{StoreError, user_key::UserKey},
    RedisOptions,
    cluster::Cluster,
    errors::is_demoted,
    silence::Silence,
    source::{Connection, Source},
    url::Target,
};

/// A connection that has not answered anything for this long, although it was asked, is given up: the host may be gone
/// without a word.
const SILENCE: Duration = Duration::from_secs(2);
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
    /// A place for whoever follows a Cluster's failover.
    following: Semaphore,
}

#[derive(Default)]
struct Current {
    live: Option<Live>,
    made: u64,
    failed: Option<(Instant, RedisError)>,
}

#[derive(Clone)]
struct Live {
    /// Tells it from those before and after it.
    number: u64,
    made: Made,
}

/// A connection and how long it has been silent.
#[derive(Clone)]
struct Made {
    connection: Connection,
    silence: Arc<Silence>,
}

impl Link {
    pub(super) fn new(target: &Target, options: &RedisOptions) -> Result<Arc<Self>, StoreError> {
        let source = Source::new(target, options)?;
        let attempts = if matches!(source, Source::Cluster(_)) { CLUSTER_CONNECTS } else { 1 };
        let connect_timeout = attempts * options.connect_timeout;
        Ok(Arc::new(Self { source, current: Mutex::default(), connect_timeout, following: Semaphore::new(1) }))
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
        let answers = match &live.made.connection {
            Connection::Node(connection) => pipeline.query_async(&mut connection.clone()).await,
            Connection::Cluster(cluster) => self.send_to_cluster(live.number, cluster, pipeline, user).await,
        };
        silence.ended(answers.is_ok());
        let given_up = match &answers {
            Err(_) => !live.is_alive(),
            // A primary that became a replica: Sentinel or the name service knows the new one.
            Ok(answers) => answers.iter().any(|answer| answer.as_ref().is_err_and(is_demoted)),
        };
        if given_up {
            self.current.lock().await.forget(live.number);
        }
        answers
    }

    /// Goes on after its caller's deadline: what nobody waits for any more the client drops, and only by its own
    /// timeout does one learn that a node is silent.
    async fn send_to_cluster(
        self: &Arc<Self>,
        number: u64,
        cluster: &Cluster,
        pipeline: &Pipeline,
        user: &UserKey,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        let place = cluster.node_of(user).place()?;
        let (link, cluster, pipeline, user) = (self.clone(), cluster.clone(), pipeline.clone(), *user);
        let sent = tokio::spawn(async move {
            let _place = place;
            let node = cluster.node_of(&user);
            node.silence.asked();
            let answers = cluster.send(&pipeline).await;
            match &answers {
                Err(error) if error.is_timeout() => link.follow_failover(number, &cluster).await,
                Ok(_) => node.silence.answered(),
                Err(_) => node.silence.failed(),
            }
            answers
        });
        sent.await.unwrap_or_else(|failed| Err(ended(&failed)))
    }

    /// A node of a Cluster is silent: connects anew if others have taken slots over. One at a time; meanwhile all go on
    /// with the connection that there is, which serves the other nodes' users.
    async fn follow_failover(&self, number: u64, cluster: &Cluster) {
        let Ok(_following) = self.following.try_acquire() else { return };
        let replaced = self.current.lock().await.live.as_ref().is_none_or(|now| now.number != number);
        if replaced || !cluster.has_other_owners().await {
            return;
        }
        tracing::warn!("a node of the Cluster is silent, and slots have other owners: connecting anew");
        if let Ok(made) = self.make().await {
            self.current.lock().await.install(made);
        }
    }

    /// A new connection.
    async fn make(&self) -> RedisResult<Made> {
        let connection = self.source.connect(self.connect_timeout).await?;
        Ok(Made { connection, silence: Arc::new(Silence::new()) })
    }

    /// Whether the Cluster's node that has the user has been asked for a while and answered nobody. One server that is
    /// silent is an outage: others don't wait beside it.
    pub(super) fn is_silent(&self, user: &UserKey) -> bool {
        // Held for longer only while a connection is made: who is there then is not known.
        let Ok(current) = self.current.try_lock() else { return false };
        match current.live.as_ref().map(|live| &live.made.connection) {
            Some(Connection::Cluster(cluster)) => cluster.node_of(user).is_silent(),
            Some(Connection::Node(_)) | None => false,
        }
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
        tokio::spawn(async move { link.connect().await }).await.unwrap_or_else(|failed| Err(ended(&failed)))
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
        match self.make().await {
            Ok(made) => Ok(current.install(made)),
            Err(error) => {
                current.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// A task that panicked, or ended with the program.
fn ended(failed: &JoinError) -> RedisError {
    io::Error::other(failed.to_string()).into()
}

impl Current {
    /// All go on with this connection.
    fn install(&mut self, made: Made) -> Live {
        self.made += 1;
        self.failed = None;
        let live = Live { number: self.made, made };
        self.live = Some(live.clone());
        live
    }

    /// Lets the next call connect anew, unless this connection has been replaced already.
    fn forget(&mut self, number: u64) {
        if self.live.as_ref().is_some_and(|live| live.number == number) {
            self.live = None;
        }
    }
}

impl Live {
    /// Whether others of a Cluster's nodes have answered lately.
    fn is_alive(&self) -> bool {
        match self.made.connection {
            Connection::Node(_) => false,
            Connection::Cluster(_) => self.made.silence.last_answer().elapsed() < CLUSTER_SILENCE,
        }
    }
}

/// Notices, when a call is cancelled by its deadline, that the connection has been silent for too long.
struct SilenceGuard<'a> {
    link: &'a Arc<Link>,
    live: &'a Live,
    ended: bool,
}

impl<'a> SilenceGuard<'a> {
    fn begin(link: &'a Arc<Link>, live: &'a Live) -> Self {
        live.made.silence.asked();
        Self { link, live, ended: false }
    }

    /// With an answer, or with an error, which nobody waits after either.
    fn ended(mut self, answered: bool) {
        self.ended = true;
        if answered {
            self.live.made.silence.answered();
        } else {
            self.live.made.silence.failed();
        }
    }
}

impl Drop for SilenceGuard<'_> {
    fn drop(&mut self) {
        if !self.ended
            && self.live.made.silence.lasts() > SILENCE
            && let Ok(mut current) = self.link.current.try_lock()
        {
            current.forget(self.live.number);
        }
    }
}
