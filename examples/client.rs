//! A client as services should have it: a pool of connections, a deadline for every call, retries that wait as long as
//! the server asks, history tokens, and a stream of events that is held back by its acknowledgements.
//!
//! `cargo run --example client -- http://localhost:50051 u42 i1 i2 i3` ranks, appends, ranks again, streams.
//! A project of its own generates `proto/` with tonic-prost-build instead of depending on this crate.

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pbjson_types::Timestamp;
use sesrec::proto::v1::{self, event::Payload, ranking_service_client::RankingServiceClient, search::QueryForm};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// Events of a stream that are on their way. More would only wait elsewhere.
const WINDOW: usize = 256;

/// Users whose tokens are kept, at most.
const USERS: usize = 100_000;

type Client = RankingServiceClient<Channel>;

/// Several connections to one address, taken in turn: one carries a thousand calls, but a single TCP stream's losses
/// hold up all of them. Behind `dns:///` and a headless Service, make one per address.
struct Pool {
    clients: Vec<Client>,
    next: AtomicUsize,
    tokens: Mutex<Tokens>,
}

impl Pool {
    /// Connects when first used, and again after failures.
    fn new(url: &str, connections: usize) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            // The server pings silent connections every 30 s: so does this side, and notices a dead one.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        let clients = (0..connections).map(|_| RankingServiceClient::new(endpoint.connect_lazy())).collect();
        Ok(Self { clients, next: AtomicUsize::new(0), tokens: Mutex::default() })
    }

    fn client(&self) -> Client {
        self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()].clone()
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One call under one deadline for all its attempts. Every method may be repeated: an append is known by its
    /// event_id.
    async fn call<T: Clone, R>(
        &self,
        message: T,
        deadline: Instant,
        method: impl AsyncFn(Client, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, Status> {
        let mut pause = Duration::from_millis(20);
        loop {
            let mut request = Request::new(message.clone());
            // Goes along as grpc-timeout: the server spends nothing on an answer that nobody waits for.
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let status = match method(self.client(), request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let may_pass = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
            let wait = wait(&status, pause);
            if !may_pass || wait >= deadline.saturating_duration_since(Instant::now()) {
                return Err(status);
            }
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
    }

    /// Reflects at least what this client has written or seen of the user; what the store still has, where it has lost
    /// that.
    async fn rank(&self, user: &str, items: &[String]) -> Result<v1::RankResponse, Status> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut request = v1::RankRequest {
            user_id: user.into(),
            candidate_item_ids: items.to_vec(),
            history_token: self.tokens().get(user),
            ..Default::default()
        };
        let mut answer = self.rank_once(request.clone(), deadline).await;
        if answer.as_ref().is_err_and(is_token_ahead) {
            // Kept, it would fail all further Ranks of this user.
            self.tokens().forget(user, &request.history_token);
            request.history_token.clear();
            answer = self.rank_once(request.clone(), deadline).await;
        }
        let answer = answer?;
        self.tokens().replace(user, &request.history_token, &answer.history_token);
        Ok(answer)
    }

    async fn rank_once(&self, request: v1::RankRequest, deadline: Instant) -> Result<v1::RankResponse, Status> {
        self.call(request, deadline, async |mut client, request| client.rank(request).await).await
    }

    /// A user's one after another: of two that overlap, the earlier one's token may be the one that is kept.
    async fn append(&self, event: v1::Event) -> Result<v1::AppendEventResponse, Status> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let user = event.user_id.clone();
        let request = v1::AppendEventRequest { event: Some(event) };
        let method = async |mut client: Client, request| client.append_event(request).await;
        let answer = self.call(request, deadline, method).await?;
        self.tokens().keep(&user, &answer.history_token);
        Ok(answer)
    }

    /// Streams events until `events` ends. The producer is held back by `events` being bounded, this side by the window
    /// of unacknowledged events, and the server by HTTP/2: nothing piles up anywhere. What was not acknowledged is sent
    /// again after a failure, and is a duplicate if the server had it already. Tokens are not kept: nobody waits for an
    /// answer that reflects a log.
    async fn stream(&self, mut events: mpsc::Receiver<v1::Event>) -> Result<HashMap<v1::Outcome, usize>, Status> {
        let mut open: VecDeque<v1::AppendEventRequest> = VecDeque::new();
        let mut outcomes = HashMap::new();
        let mut ended = false;
        while !(ended && open.is_empty()) {
            let (sender, receiver) = mpsc::channel(WINDOW);
            for request in &open {
                let _ = sender.try_send(request.clone());
            }
            let mut sender = Some(sender);
            let mut answers = match self.client().append_events(ReceiverStream::new(receiver)).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => {
                    pause_after(status).await?;
                    continue;
                }
            };
            loop {
                if ended {
                    // Half-closes the stream: the server ends it after the last acknowledgement.
                    sender = None;
                }
                tokio::select! {
                    answer = answers.message() => match answer {
                        Ok(Some(answer)) => {
                            open.pop_front();
                            *outcomes.entry(answer.outcome()).or_default() += 1;
                        }
                        Ok(None) => break,
                        Err(status) => {
                            pause_after(status).await?;
                            break;
                        }
                    },
                    event = events.recv(), if !ended && open.len() < WINDOW => match event {
                        Some(event) => {
                            let request = v1::AppendEventRequest { event: Some(event) };
                            open.push_back(request.clone());
                            // The channel is as large as the window: there is room.
                            if let Some(sender) = &sender {
                                let _ = sender.try_send(request);
                            }
                        }
                        None => ended = true,
                    }
                }
            }
        }
        Ok(outcomes)
    }
}

/// The state that each user's next answer has to reflect: what this client has written or seen. In a web service a
/// token belongs to the user's session, which the next request brings along.
///
/// Whoever was not here while `USERS / 2` others were may be forgotten, and is answered from what the replica reads.
#[derive(Default)]
struct Tokens {
    recent: HashMap<String, String>,
    older: HashMap<String, String>,
}

impl Tokens {
    /// Empty where there is none: any state will do.
    fn get(&self, user: &str) -> String {
        self.recent.get(user).or_else(|| self.older.get(user)).cloned().unwrap_or_default()
    }

    /// An append's: nothing newer is known.
    fn keep(&mut self, user: &str, token: &str) {
        self.recent.insert(user.into(), token.into());
        if self.recent.len() >= USERS / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
    }

    /// A Rank's, that was sent with `sent`: kept if `sent` still is. An append's that came meanwhile stands for a newer
    /// state than the one a slow Rank saw.
    fn replace(&mut self, user: &str, sent: &str, token: &str) {
        if self.get(user) == sent {
            self.keep(user, token);
        }
    }

    /// Likewise: another that came meanwhile stays.
    fn forget(&mut self, user: &str, sent: &str) {
        if self.get(user) == sent {
            self.recent.remove(user);
            self.older.remove(user);
        }
    }
}

/// Whether the store is behind the token: it has lost data, or a replica of it lags for longer than the server waits.
fn is_token_ahead(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition
        && status.get_details_error_info().is_some_and(|info| info.reason == "HISTORY_TOKEN_AHEAD")
}

/// As long as the server asks, or `least`, and up to half as long again: it asks all for the same, and callers that
/// failed together must not come back together.
fn wait(status: &Status, least: Duration) -> Duration {
    let asked = status.get_details_retry_info().and_then(|retry| retry.retry_delay).unwrap_or_default();
    asked.max(least).mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

/// Waits after a failure that may pass; others are final.
async fn pause_after(status: Status) -> Result<(), Status> {
    let may_pass = match status.code() {
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown => true,
        // Also what a stream ends with that a proxy or a dying connection reset. What the server says has details.
        Code::Internal => status.get_details_error_info().is_none(),
        _ => false,
    };
    if !may_pass {
        return Err(status);
    }
    tokio::time::sleep(wait(&status, Duration::from_millis(200))).await;
    Ok(())
}

fn event(user: &str, payload: Payload) -> v1::Event {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::Event {
        event_id: format!("{:032x}", rand::random::<u128>()),
        user_id: user.into(),
        time: Some(Timestamp { seconds: now.as_secs().cast_signed(), nanos: now.subsec_nanos().cast_signed() }),
        payload: Some(payload),
    }
}

fn show(title: &str, answer: &v1::RankResponse) {
    let total = answer.timings.as_ref().map_or(0, |timings| timings.total_us);
    println!("{title}  (model {}, {:.2} ms)", answer.model_version, total as f64 / 1000.0);
    answer.items.iter().for_each(|item| println!("  {:.5}  {}", item.score, item.item_id));
    answer.unknown_item_ids.iter().for_each(|item| println!("  not in the catalogue: {item}"));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(user)) = (arguments.next(), arguments.next()) else {
        return Err("usage: client http://HOST:PORT USER ITEM…".into());
    };
    let items: Vec<String> = arguments.collect();
    let pool = Pool::new(&url, 4)?;

    show("before", &pool.rank(&user, &items).await?);
    let search = v1::Search {
        search_id: format!("{:032x}", rand::random::<u128>()),
        query_form: Some(QueryForm::Query("red shoes".into())),
        clicked_item_ids: items.last().cloned().into_iter().collect(),
        ..Default::default()
    };
    let appended = pool.append(event(&user, Payload::Search(search))).await?;
    println!("appended: {}", appended.outcome().as_str_name());
    // Whatever replica answers, and whoever asks with this user's token: the search is in it.
    show("after", &pool.rank(&user, &items).await?);

    let (sender, events) = mpsc::channel(WINDOW);
    let producer = async move {
        for item in items {
            let payload = Payload::Recommendation(v1::Recommendation { item_id: item });
            // Waits while the window is full: this is where back-pressure arrives.
            if sender.send(event(&user, payload)).await.is_err() {
                return;
            }
        }
    };
    let ((), outcomes) = tokio::join!(producer, pool.stream(events));
    println!("streamed: {:?}", outcomes?);
    Ok(())
}
