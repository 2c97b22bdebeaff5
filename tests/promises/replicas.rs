//! Three replicas of the service on one Redis, sixteen clients that append and rank with tokens: no answer is older than
//! its token, nothing that was acknowledged is missing, also across a failover.

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
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::{
    amount, bundle,
    checker::{Checker, Seen, version},
    redis_server::{Guarded, PATIENCE, RedisServer, redis_cli},
    server::{Client, Server},
};

const REPLICAS: usize = 3;
const CLIENTS: usize = 16;

/// Whether errors are part of the story.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    Failover,
}

async fn replicas(directory: &Path, store: &str, arguments: &[&str]) -> Vec<Server> {
    let bundle = directory.join("bundle");
    bundle::write(&bundle, 1);
    let mut servers: Vec<_> = (0..REPLICAS).map(|_| Server::start(directory, &bundle, store, arguments)).collect();
    for server in &mut servers {
        server.ready().await;
    }
    servers
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
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
    fn replica(&mut self) -> Client {
        self.replicas[self.random.random_range(0..REPLICAS)].clone()
    }

    async fn operation(&mut self) {
        let user = self.random.random_range(0..self.checker.users());
        match self.random.random_range(0..4) {
            0 | 1 => self.append(user).await,
            2 => self.rank(user).await,
            _ => self.history(user).await,
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

    async fn rank(&mut self, user: usize) {
        let (before, token) = self.question(user);
        let rank = v1::RankRequest {
            user_id: format!("user-{user}"),
            candidate_item_ids: (0..5).map(bundle::item).collect(),
            history_token: token.clone(),
            explain: true,
            ..Default::default()
        };
        match self.replica().rank(request(rank)).await.map(tonic::Response::into_inner) {
            Ok(answer) => {
                let events = answer.explanation.iter().flat_map(|history| &history.recommendations);
                let events = events.map(|event| event.event_id.as_str()).collect();
                self.judge(user, &before, &token, &Seen { token: &answer.history_token, events });
            }
            Err(status) => self.forget(user, &status).await,
        }
    }

    async fn history(&mut self, user: usize) {
        let (before, token) = self.question(user);
        let question = v1::GetHistoryRequest { user_id: format!("user-{user}"), history_token: token.clone() };
        match self.replica().get_history(request(question)).await.map(tonic::Response::into_inner) {
            Ok(answer) => {
                let events = answer.recommendations.iter().map(|event| event.event_id.as_str()).collect();
                self.judge(user, &before, &token, &Seen { token: &answer.history_token, events });
            }
            Err(status) => self.forget(user, &status).await,
        }
    }

    /// A token: of everything that anybody was told, of an older state, of what this caller saw last; or none, where
    /// nothing stands between a replica and the store.
    fn question(&mut self, user: usize) -> (crate::checker::Before, String) {
        let older = if self.random.random_bool(0.2) { self.random.random_range(0..5) } else { 0 };
        let before = self.checker.before(user, older);
        let token = match self.random.random_range(0..10) {
            0..2 if self.weather == Weather::Fair => String::new(),
            2..4 if version(&self.seen[user]) > version(&before.token) => self.seen[user].clone(),
            _ => before.token.clone(),
        };
        (before, token)
    }

    fn judge(&mut self, user: usize, before: &crate::checker::Before, token: &str, seen: &Seen<'_>) {
        if version(seen.token) < version(token) {
            self.checker.violation(format!("user {user}: {} is older than its token {token}", seen.token));
        }
        self.checker.check(user, before, seen);
        self.seen[user] = seen.token.to_owned();
    }

    /// An error; a state that a failover has lost before it was acknowledged is asked for no more.
    async fn forget(&mut self, user: usize, status: &Status) {
        self.tolerate(status).await;
        if status.code() == Code::FailedPrecondition {
            self.seen[user].clear();
        }
    }
}

/// Runs all callers; how many errors they had. The last quarter of the operations waits for the token.
async fn run(
    checker: &Arc<Checker>,
    servers: &[Server],
    operations: usize,
    weather: Weather,
    (done, go_on): (&Arc<AtomicUsize>, &CancellationToken),
) -> usize {
    let callers = (0..CLIENTS).map(|number| {
        let mut caller = Caller {
            checker: checker.clone(),
            replicas: servers.iter().map(Server::client).collect(),
            random: StdRng::seed_from_u64(number as u64),
            weather,
            seen: vec![String::new(); checker.users()],
            errors: 0,
        };
        let (done, go_on) = (done.clone(), go_on.clone());
        tokio::spawn(async move {
            loop {
                match done.fetch_add(1, Ordering::Relaxed) {
                    number if number >= operations => return caller.errors,
                    number if number >= operations / 4 * 3 => go_on.cancelled().await,
                    _ => {}
                }
                caller.operation().await;
            }
        })
    });
    let mut errors = 0;
    for caller in callers.collect::<Vec<_>>() {
        errors += caller.await.unwrap();
    }
    errors
}

/// How many of the acknowledged events the service doesn't have.
async fn missing(checker: &Checker, server: &Server) -> (usize, usize) {
    let events = checker.all();
    let count = events.len();
    let answers = server.client().append_events(tokio_stream::iter(events)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), count);
    let lost = answers.iter().filter(|answer| answer.as_ref().unwrap().outcome() != Outcome::Duplicate).count();
    (count, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_older_than_its_token() {
    let operations = amount("SESREC_OPERATIONS", 3_000);
    let directory = tempfile::tempdir().unwrap();
    let redis = RedisServer::start(&[]);
    let servers = replicas(directory.path(), &redis.url(), &[]).await;
    let checker = Arc::new(Checker::new((operations / 150).max(24)));
    let started = Instant::now();
    let go_on = CancellationToken::new();
    go_on.cancel();
    run(&checker, &servers, operations, Weather::Fair, (&Arc::default(), &go_on)).await;
    checker.assert_clean();
    let (acknowledged, lost) = missing(&checker, &servers[0]).await;
    println!(
        "{operations} operations of {CLIENTS} clients on {REPLICAS} replicas in {:.1} s: {acknowledged} events acknowledged, \
         {lost} lost, no answer older than its token",
        started.elapsed().as_secs_f64()
    );
    assert_eq!(lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_nothing_that_waited_for_all_replicas() {
    let operations = amount("SESREC_OPERATIONS", 3_000);
    let directory = tempfile::tempdir().unwrap();
    let mut guarded = Guarded::start(2).await;
    let store = guarded.url();
    let servers = replicas(directory.path(), &store, &["--redis-wait", "2"]).await;
    let checker = Arc::new(Checker::new((operations / 150).max(24)));
    let (done, killed) = (Arc::<AtomicUsize>::default(), CancellationToken::new());
    let killing = {
        let (done, killed) = (done.clone(), killed.clone());
        tokio::spawn(async move {
            while done.load(Ordering::Relaxed) < operations / 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            guarded.kill_primary();
            killed.cancel();
            let promoted = guarded.promoted().await;
            // Without its data: what is kept is kept by the others. Sentinel would make it a replica in ten seconds.
            guarded.primary.start_again();
            let port = guarded.primary.port().to_string();
            redis_cli(&["-p", &port, "replicaof", "127.0.0.1", &promoted.to_string()]);
            guarded
        })
    };
    let errors = run(&checker, &servers, operations, Weather::Failover, (&done, &killed)).await;
    let _guarded = killing.await.unwrap();
    checker.assert_clean();
    let (acknowledged, lost) = missing(&checker, &servers[0]).await;
    println!(
        "{operations} operations across a failover with --redis-wait 2: {acknowledged} events acknowledged, {lost} lost, \
         {errors} errors to try again, no answer older than its token"
    );
    assert!(errors > 0, "the primary was killed in between");
    assert_eq!(lost, 0);
}
