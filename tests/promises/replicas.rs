//! Three replicas of the service on one Redis, sixteen clients that append and rank with tokens: no answer is older
//! than its token, nothing that was acknowledged is missing, also across a failover.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sesrec::proto::v1::{self, Outcome};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::{
    amount, bundle,
    checker::{Before, Checker, Freshness, Seen, version},
    redis_server::{Guarded, PATIENCE, RedisServer},
    server::{Client, Server},
    toll::{Toll, missing},
};

pub const REPLICAS: usize = 3;
const CLIENTS: usize = 16;

/// Whether errors are part of the story.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    Failover,
}

pub async fn replicas(directory: &Path, store: &str, arguments: &[&str]) -> Vec<Server> {
    let bundle = directory.join("bundle");
    bundle::write(&bundle, 1);
    let mut servers: Vec<_> = (0..REPLICAS).map(|_| Server::start(directory, &bundle, store, arguments)).collect();
    for server in &mut servers {
        server.ready().await;
    }
    servers
}

pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// The RPCs that tell what is known of a user.
#[derive(Clone, Copy)]
pub enum Reading {
    Rank,
    GetHistory,
}

/// Asks a replica what it knows of a user.
pub async fn read(client: &mut Client, rpc: Reading, user: usize, token: &str) -> Result<Seen, Status> {
    let (user_id, history_token) = (format!("user-{user}"), token.to_owned());
    let (token, events, stale) = match rpc {
        Reading::Rank => {
            let candidate_item_ids = (0..5).map(bundle::item).collect();
            let rank =
                v1::RankRequest { user_id, candidate_item_ids, history_token, explain: true, ..Default::default() };
            let answer = client.rank(request(rank)).await?.into_inner();
            let events = answer.explanation.into_iter().flat_map(|history| history.recommendations);
            (answer.history_token, events.map(|event| event.event_id).collect(), answer.stale_history)
        }
        Reading::GetHistory => {
            let answer = client.get_history(request(v1::GetHistoryRequest { user_id, history_token })).await?;
            let answer = answer.into_inner();
            let events = answer.recommendations.into_iter().map(|event| event.event_id).collect();
            (answer.history_token, events, answer.stale_history)
        }
    };
    Ok(Seen { token, events, freshness: if stale { Freshness::Stale } else { Freshness::Current } })
}

/// What a failover may bring: try again.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::FailedPrecondition
    )
}

/// One client's share of the operations.
struct Caller {
    checker: Arc<Checker>,
    replicas: Vec<Client>,
    random: StdRng,
    weather: Weather,
    /// The newest state of each user that this caller has seen.
    seen: Vec<String>,
    errors: usize,
}

impl Caller {
    fn new(number: usize, checker: &Arc<Checker>, servers: &[Server], weather: Weather) -> Self {
        Self {
            checker: checker.clone(),
            replicas: servers.iter().map(Server::client).collect(),
            random: StdRng::seed_from_u64(number as u64),
            weather,
            seen: vec![String::new(); checker.users()],
            errors: 0,
        }
    }

    fn replica(&mut self) -> Client {
        self.replicas[self.random.random_range(0..REPLICAS)].clone()
    }

    async fn operation(&mut self) {
        let user = self.random.random_range(0..self.checker.users());
        match self.random.random_range(0..4) {
            0 | 1 => self.append(user).await,
            2 => self.read(Reading::Rank, user).await,
            _ => self.read(Reading::GetHistory, user).await,
        }
    }

    async fn append(&mut self, user: usize) {
        let event = self.checker.event(user);
        // As a pipeline does: the same event again until it is acknowledged, wherever.
        loop {
            let append = v1::AppendEventRequest { event: Some(event.clone()) };
            match self.replica().append_event(request(append)).await.map(tonic::Response::into_inner) {
                Ok(answer) => {
                    assert!(matches!(answer.outcome(), Outcome::Applied | Outcome::Duplicate), "{answer:?}");
                    if version(&answer.history_token) < version(&self.seen[user]) && self.weather == Weather::Fair {
                        self.checker.violation(format!("user {user}: versions went back with {}", event.event_id));
                    }
                    self.seen[user].clone_from(&answer.history_token);
                    return self.checker.acknowledged(user, event, &answer.history_token);
                }
                Err(status) => self.tolerate(&status).await,
            }
        }
    }

    async fn tolerate(&mut self, status: &Status) {
        assert!(self.weather == Weather::Failover && passes(status), "{status:?}");
        self.errors += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn read(&mut self, rpc: Reading, user: usize) {
        let (before, token) = self.question(user);
        match read(&mut self.replica(), rpc, user, &token).await {
            Ok(seen) => self.judge(user, &before, &token, seen),
            Err(status) => self.forget(user, &status).await,
        }
    }

    /// A token: of everything that anybody was told, of an older state, of what this caller saw last; or none, where
    /// nothing stands between a replica and the store.
    fn question(&mut self, user: usize) -> (Before, String) {
        let older = if self.random.random_bool(0.2) { self.random.random_range(0..5) } else { 0 };
        let before = self.checker.before(user, older);
        let token = match self.random.random_range(0..10) {
            0..2 if self.weather == Weather::Fair => String::new(),
            2..4 if version(&self.seen[user]) > version(&before.token) => self.seen[user].clone(),
            _ => before.token.clone(),
        };
        (before, token)
    }

    fn judge(&mut self, user: usize, before: &Before, token: &str, seen: Seen) {
        if version(&seen.token) < version(token) {
            self.checker.violation(format!("user {user}: {} is older than its token {token}", seen.token));
        }
        self.checker.check(user, before, &seen);
        self.seen[user] = seen.token;
    }

    /// An error; a state that a failover has lost before it was acknowledged is asked for no more.
    async fn forget(&mut self, user: usize, status: &Status) {
        self.tolerate(status).await;
        if status.code() == Code::FailedPrecondition {
            self.seen[user].clear();
        }
    }
}

/// Runs all callers while there is `more` to do; how many errors they had.
async fn run(
    checker: &Arc<Checker>,
    servers: &[Server],
    weather: Weather,
    more: impl Fn() -> bool + Clone + Send + 'static,
) -> usize {
    let callers = (0..CLIENTS).map(|number| {
        let (mut caller, more) = (Caller::new(number, checker, servers, weather), more.clone());
        tokio::spawn(async move {
            while more() {
                caller.operation().await;
            }
            caller.errors
        })
    });
    let mut errors = 0;
    for caller in callers.collect::<Vec<_>>() {
        errors += caller.await.unwrap();
    }
    errors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_older_than_its_token() {
    let operations = amount("SESREC_OPERATIONS", 3_000);
    let directory = tempfile::tempdir().unwrap();
    let redis = RedisServer::start(&[]);
    let servers = replicas(directory.path(), &redis.url(), &[]).await;
    let checker = Arc::new(Checker::new((operations / 150).max(24)));
    let started = Instant::now();
    let done = Arc::<AtomicUsize>::default();
    run(&checker, &servers, Weather::Fair, move || done.fetch_add(1, Ordering::Relaxed) < operations).await;
    checker.assert_clean();
    let (acknowledged, lost) = (checker.all().len(), missing(&servers[0], checker.all()).await);
    println!(
        "{operations} operations of {CLIENTS} clients on {REPLICAS} replicas in {:.1} s: {acknowledged} events acknowledged, \
         {lost} lost, no answer older than its token",
        started.elapsed().as_secs_f64()
    );
    assert_eq!(lost, 0);
}

/// One failover in ten thousand operations, spread over them. Each is over, for a caller, when an append that began
/// after the kill is acknowledged; with `--redis-wait` of all replicas that is when the killed one is back, too.
async fn fail_over_again_and_again(
    guarded: &mut Guarded,
    mut caller: Caller,
    operations: usize,
    done: &AtomicUsize,
) -> Vec<Duration> {
    let failovers = (operations / 10_000).max(1);
    let mut recoveries = vec![];
    for failover in 1..=failovers {
        while done.load(Ordering::Relaxed) < operations * failover / (failovers + 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        guarded.kill_primary();
        let killed = Instant::now();
        let acknowledged = async {
            caller.append(0).await;
            killed.elapsed()
        };
        recoveries.push(tokio::join!(acknowledged, guarded.recover()).0);
    }
    recoveries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_nothing_that_waited_for_all_replicas() {
    let operations = amount("SESREC_OPERATIONS", 3_000);
    let directory = tempfile::tempdir().unwrap();
    let mut guarded = Guarded::start(2).await;
    let store = guarded.url();
    let servers = replicas(directory.path(), &store, &["--redis-wait", "2"]).await;
    let checker = Arc::new(Checker::new((operations / 150).max(24)));
    let (done, over) = (Arc::<AtomicUsize>::default(), CancellationToken::new());
    let more = {
        let (done, over) = (done.clone(), over.clone());
        move || done.fetch_add(1, Ordering::Relaxed) < operations || !over.is_cancelled()
    };
    let failing = async {
        let caller = Caller::new(CLIENTS, &checker, &servers, Weather::Failover);
        let failed_over = fail_over_again_and_again(&mut guarded, caller, operations, &done).await;
        over.cancel();
        failed_over
    };
    let (errors, recoveries) = tokio::join!(run(&checker, &servers, Weather::Failover, more), failing);
    checker.assert_clean();
    let (acknowledged, lost) = (checker.all().len(), missing(&servers[0], checker.all()).await);
    println!(
        "{operations} operations of {CLIENTS} clients on {REPLICAS} replicas across failovers, {errors} errors to try again, \
         no answer older than its token"
    );
    assert!(errors > 0, "the primary was killed in between");
    let mut toll = Toll { acknowledged, lost, recoveries, ..Toll::default() };
    toll.audit(&store, checker.all().iter()).await;
    toll.print_and_judge("failover to a replica, `--redis-wait 2` of 2");
}
