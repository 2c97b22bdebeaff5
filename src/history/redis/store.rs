//! The store: which commands are sent for what, and tried again how long.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use redis::{Pipeline, RedisResult, Value};
use tokio::time::Instant;

use super::{
    super::{Appended, Clock, HistoryOptions, HistoryStore, Loaded, StoreError, timeline::Row, user_key::UserKey},
    answers::{appended, loaded, only, version},
    delivery::Delivery,
    element, errors,
    link::Link,
    scripts::{Call, Scripts, side_key},
    url::{Kind, Target},
};
use crate::domain::{Deadline, Event, HistoryVersion, UserId};

/// Appends that are sent before the answer to the first is awaited.
const PIPELINE: usize = 128;
/// Groups of users that one `append` has under way at a time.
const CONCURRENT_GROUPS: usize = 64;
/// Users who are asked for to learn whether a Cluster works: over some slots.
const CLUSTER_PINGS: usize = 15;
/// Before what failed for the moment is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long a read waits for whoever has answered nobody for a while: enough to see that they are back, and little
/// enough that the Ranks of their users don't take up the places of others'.
const SILENT_PATIENCE: Duration = Duration::from_millis(30);

/// How Redis is used.
#[derive(Clone)]
pub struct RedisOptions {
    /// Begins every key.
    pub prefix: String,
    /// Multiplexed connections to a server; each serves any number of callers. A Cluster has one per node.
    pub connections: usize,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a call is tried again when the connection breaks or the server is not ready, its deadline aside.
    /// Appends may be: a repetition of one that took place is a duplicate.
    pub retry_for: Duration,
    /// Replicas that must have an append or an erasure before it is acknowledged; 0 is none. A failover loses nothing
    /// that was acknowledged if these are all that may be promoted: a Sentinel asks no other replica before it promotes
    /// one.
    pub wait: u32,
    /// PEM certificates to trust, in place of the system's, for `rediss`.
    pub root_certificate: Option<Vec<u8>>,
    /// In place of the Redis server's clock, for tests; whole microseconds count.
    pub clock: Option<Arc<dyn Clock>>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "sesrec:".into(),
            connections: 2,
            connect_timeout: Duration::from_secs(2),
            retry_for: Duration::from_millis(250),
            wait: 0,
            root_certificate: None,
            clock: None,
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("prefix", &self.prefix)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("retry_for", &self.retry_for)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

/// Histories in Redis, shared by all replicas of the service.
///
/// Durable as far as the server is (`appendonly yes`, `appendfsync always` for every acknowledged append); a failover
/// loses what had not been replicated, unless `RedisOptions::wait` asks for it. The server must not evict:
/// `maxmemory-policy noeviction`.
pub struct RedisStore {
    links: Vec<Arc<Link>>,
    /// For changes that wait for replicas: meanwhile nothing else gets through on their connection.
    waiting_links: Vec<Arc<Link>>,
    wait: u32,
    grouping: Grouping,
    scripts: Scripts,
    retry_for: Duration,
    clock: Option<Arc<dyn Clock>>,
    /// Hosts, for messages.
    name: String,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Change,
}

/// What may share a pipeline.
enum Grouping {
    /// Everything on the same connection.
    ByLink,
    /// One user: a Cluster's pipeline concerns one slot.
    ByUser,
}

impl RedisStore {
    /// Prepares connections to a URL as in the module's documentation, and tries the first.
    ///
    /// # Errors
    /// `Config` for a URL, certificate or password that is wrong, and for a Cluster that is to wait for replicas. A
    /// server that can't be reached now is no error: it is tried again with every call.
    pub async fn connect(url: &str, redis: RedisOptions, options: HistoryOptions) -> Result<Self, StoreError> {
        let target = Target::parse(url)?;
        let (links, grouping) = match target.kind {
            Kind::Cluster => (1, Grouping::ByUser),
            _ => (redis.connections.max(1), Grouping::ByLink),
        };
        if redis.wait > 0 && matches!(target.kind, Kind::Cluster) {
            let reason = "a Cluster can't be told to wait for replicas: redis:// and redis+sentinel:// can";
            return Err(StoreError::Config(reason.into()));
        }
        let connect = |links: usize| (0..links).map(|_| Link::new(&target, &redis)).collect::<Result<Vec<_>, _>>();
        let waiting_links = connect(if redis.wait > 0 { links } else { 0 })?;
        let links = connect(links)?;
        let scripts = Scripts::new(&options, &redis);
        let name = target.display();
        let RedisOptions { wait, retry_for, clock, .. } = redis;
        let store = Self { links, waiting_links, wait, grouping, scripts, retry_for, clock, name };
        match store.ping(Deadline::after(redis.connect_timeout + redis.retry_for)).await {
            Err(StoreError::Config(reason)) => return Err(StoreError::Config(reason)),
            Err(error) => tracing::warn!(%error, "history store: not reachable yet"),
            Ok(()) => {}
        }
        Ok(store)
    }

    fn now(&self) -> String {
        self.clock.as_ref().map(|clock| (clock.now().nanos() / 1000).to_string()).unwrap_or_default()
    }

    fn link(&self, user: &UserKey) -> usize {
        user.spread() % self.links.len()
    }

    /// Sends calls in order on the link of `user`; what fails for the moment is tried again.
    async fn run(
        &self,
        user: &UserKey,
        calls: &[Call<'_>],
        access: Access,
        deadline: Deadline,
    ) -> Vec<Result<Value, StoreError>> {
        let wait = access == Access::Change && self.wait > 0;
        let links = if wait { &self.waiting_links } else { &self.links };
        let link = &links[self.link(user)];
        let deadline = match access {
            Access::Read if link.is_silent(user) => deadline.min(Deadline::after(SILENT_PATIENCE)),
            _ => deadline,
        };
        let give_up = deadline.instant().min(Instant::now() + self.retry_for);
        let mut delivery = Delivery::of(calls);
        let mut pause = FIRST_PAUSE;
        while let Some((sent, mut pipeline)) = delivery.next_pipeline() {
            if wait {
                self.add_wait(&mut pipeline, user, give_up);
            }
            pipeline.ignore_errors();
            let progress = match tokio::time::timeout_at(deadline.instant(), link.send(&pipeline, user)).await {
                // The answers that came before stand; the others are unknown.
                Err(_) => break,
                Ok(Err(error)) => delivery.failed(&sent, &errors::judge(&error, &self.name)),
                Ok(Ok(mut received)) => {
                    // Where writes find a primary that is one no longer, reads on their own connections don't.
                    if wait && received.iter().any(|answer| answer.as_ref().is_err_and(errors::is_demoted)) {
                        self.links[self.link(user)].forget().await;
                    }
                    let replicated = if wait { self.replicated(&mut received) } else { Ok(()) };
                    let received =
                        received.into_iter().map(|answer| answer.map_err(|error| errors::judge(&error, &self.name)));
                    delivery.received(&sent, received, &replicated)
                }
            };
            if delivery.is_done() {
                break;
            }
            // A slot that is moving answers single commands best.
            if matches!(self.grouping, Grouping::ByUser) && !progress {
                delivery.one_by_one();
            }
            if !progress || Instant::now() >= give_up {
                if Instant::now() + pause >= give_up {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        delivery.answers()
    }

    /// Asks how many replicas have what went before on this connection. A write of its own stands before the question:
    /// a repetition changes nothing, and a connection that has changed nothing has nothing to wait for, although what
    /// it repeats may be on its way to the replicas still.
    fn add_wait(&self, pipeline: &mut Pipeline, user: &UserKey, give_up: Instant) {
        let patience = give_up.saturating_duration_since(Instant::now()).as_millis().max(1);
        pipeline.cmd("SET").arg(self.scripts.mark(user)).arg("").arg("PX").arg(1000);
        pipeline.cmd("WAIT").arg(self.wait).arg(patience.to_string());
    }

    /// Takes the two answers to [`add_wait`](Self::add_wait) off: whether enough replicas have what stood before.
    fn replicated(&self, received: &mut Vec<RedisResult<Value>>) -> Result<(), StoreError> {
        let replicas = received.pop();
        received.pop();
        match replicas {
            Some(Ok(Value::Int(replicas))) if replicas >= i64::from(self.wait) => Ok(()),
            _ => {
                let why = format!("Redis at {}: fewer than {} replicas have it", self.name, self.wait);
                Err(StoreError::Unavailable(why))
            }
        }
    }

    /// Writes nothing on every connection that reads: one to a server that is no primary any more is given up for the
    /// answer.
    async fn find_demoted(&self, deadline: Deadline) {
        let mut nothing = Pipeline::new();
        let nobody = UserKey::of(&UserId::new("ping").expect("a valid id"));
        nothing.cmd("LTRIM").arg(self.scripts.mark(&nobody)).arg(0).arg(-1);
        nothing.ignore_errors();
        let asked =
            self.links.iter().map(|link| tokio::time::timeout_at(deadline.instant(), link.send(&nothing, &nobody)));
        // What else is wrong with them shows in what follows.
        futures::future::join_all(asked).await;
    }

    /// Reads so many users that hardly anyone is: the scripts are there, then, and answer. It works if most of them do.
    async fn reads(&self, users: usize, deadline: Deadline) -> Result<(), StoreError> {
        let load = async |n: usize| {
            let nobody = UserId::new(&format!("ping{n}")).expect("a valid id");
            self.load(&nobody, None, deadline).await
        };
        let answers = futures::future::join_all((0..users).map(load)).await;
        let mut failures = answers.into_iter().filter_map(Result::err);
        match failures.next() {
            Some(error) if 2 * (1 + failures.count()) > users => Err(error),
            _ => Ok(()),
        }
    }

    async fn append_group(&self, group: Vec<(usize, UserKey, Row)>, deadline: Deadline) -> Vec<(usize, Answer)> {
        let mut results = Vec::with_capacity(group.len());
        for chunk in group.chunks(PIPELINE) {
            let now = self.now();
            let calls: Vec<_> = chunk
                .iter()
                .map(|(_, user, row)| {
                    let call = self.scripts.call(&self.scripts.append, user, &now);
                    call.arg(side_key(row.side())).arg(element::encode(row.time, &row.event_id, &row.payload))
                })
                .collect();
            let answers = self.run(&chunk[0].1, &calls, Access::Change, deadline).await;
            for ((place, _, row), answer) in chunk.iter().zip(answers) {
                results.push((*place, answer.and_then(|answer| appended(row, answer))));
            }
        }
        results
    }
}

type Answer = Result<Appended, StoreError>;

#[async_trait]
impl HistoryStore for RedisStore {
    async fn append(&self, events: &[Event], deadline: Deadline) -> Vec<Answer> {
        let mut groups: HashMap<(usize, Option<UserKey>), Vec<(usize, UserKey, Row)>> = HashMap::new();
        for (place, event) in events.iter().enumerate() {
            let user = UserKey::of(&event.user_id);
            let alone = matches!(self.grouping, Grouping::ByUser).then_some(user);
            groups.entry((self.link(&user), alone)).or_default().push((place, user, Row::of(event)));
        }
        let mut results: Vec<Answer> = events.iter().map(|_| Err(StoreError::Deadline)).collect();
        let mut running = stream::iter(groups.into_values())
            .map(|group| self.append_group(group, deadline))
            .buffer_unordered(CONCURRENT_GROUPS);
        while let Some(group) = running.next().await {
            for (place, result) in group {
                results[place] = result;
            }
        }
        results
    }

    async fn load(
        &self,
        user: &UserId,
        known: Option<HistoryVersion>,
        deadline: Deadline,
    ) -> Result<Loaded, StoreError> {
        let user = UserKey::of(user);
        let known = known.map(|version| format!("{:016}", version.0)).unwrap_or_default();
        let call = self.scripts.call(&self.scripts.load, &user, &self.now()).arg(known);
        loaded(only(self.run(&user, &[call], Access::Read, deadline).await)?)
    }

    async fn delete(&self, user: &UserId, deadline: Deadline) -> Result<HistoryVersion, StoreError> {
        let user = UserKey::of(user);
        let call = self.scripts.call(&self.scripts.erase, &user, &self.now());
        version(&only(self.run(&user, &[call], Access::Change, deadline).await)?)
    }

    async fn ping(&self, deadline: Deadline) -> Result<(), StoreError> {
        match self.grouping {
            // Side by side: what a call may take, a ping may.
            Grouping::ByLink => tokio::join!(self.find_demoted(deadline), self.reads(1, deadline)).1,
            Grouping::ByUser => self.reads(CLUSTER_PINGS, deadline).await,
        }
    }

    async fn close(&self) {}

    fn kind(&self) -> &'static str {
        "redis"
    }
}
