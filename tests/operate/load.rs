//! Callers that count what fails: each appends, ranks with the append's token, and looks whether the answer has it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sesrec::{
    domain::EventTime,
    history::HistoryToken,
    proto::v1::{self, Outcome, event::Payload, ranking_service_client::RankingServiceClient},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::redis_server::until;

/// Callers of unary methods; each has one request in flight and none is repeated.
pub const CALLERS: usize = 6;
/// Streams of events.
pub const STREAMS: usize = 2;
/// Events of a stream on their way.
const WINDOW: usize = 32;

type Client = RankingServiceClient<Channel>;

/// A request that got no answer.
#[derive(Debug, Clone)]
pub struct Failure {
    pub started: Instant,
    #[allow(dead_code, reason = "printed")]
    pub what: String,
}

#[derive(Default)]
struct Counts {
    calls: usize,
    failures: Vec<Failure>,
    /// Acknowledged events by stream.
    streamed: [usize; STREAMS],
    reconnects: usize,
}

/// What happened in all.
pub struct Total {
    pub calls: usize,
    pub failures: Vec<Failure>,
    pub streamed: usize,
    pub reconnects: usize,
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, failures, streamed, reconnects } = self;
        write!(
            f,
            "{calls} calls, {} failed; {streamed} streamed events, {reconnects} streams opened again",
            failures.len()
        )
    }
}

/// Load that runs until it is finished.
pub struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Load {
    pub async fn start(url: &str) -> Self {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        for n in 0..CALLERS {
            let client = connect(url).await;
            running.spawn(call(client, n, counts.clone(), stopped.clone()));
        }
        for n in 0..STREAMS {
            let client = connect(url).await;
            running.spawn(stream(client, n, counts.clone(), stopped.clone()));
        }
        Self { counts, stop, running }
    }

    /// Waits for that many further calls.
    pub async fn calls(&self, calls: usize) {
        let wanted = self.counts.lock().unwrap().calls + calls;
        until("the load goes on", async || self.counts.lock().unwrap().calls >= wanted).await;
    }

    /// Waits until that many events of each stream are acknowledged in all.
    pub async fn streamed(&self, events: usize) {
        until("the streams go on", async || self.counts.lock().unwrap().streamed.iter().all(|&n| n >= events)).await;
    }

    pub fn failures(&self) -> Vec<Failure> {
        self.counts.lock().unwrap().failures.clone()
    }

    /// Stops the callers; a caller that found a broken promise panics here.
    pub async fn finish(mut self) -> Total {
        self.stop.send(true).unwrap();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no promise was broken");
        }
        let Counts { calls, failures, streamed, reconnects } = std::mem::take(&mut *self.counts.lock().unwrap());
        Total { calls, failures, streamed: streamed.iter().sum(), reconnects }
    }
}

async fn connect(url: &str) -> Client {
    RankingServiceClient::connect(url.to_owned()).await.unwrap()
}

fn event(user: &str, event_id: String, item: usize) -> v1::AppendEventRequest {
    let payload = Payload::Recommendation(v1::Recommendation { item_id: format!("i{}", 1 + item % 200) });
    let event =
        v1::Event { event_id, user_id: user.into(), time: Some(EventTime::now().into()), payload: Some(payload) };
    v1::AppendEventRequest { event: Some(event) }
}

fn version(token: &str) -> sesrec::domain::HistoryVersion {
    HistoryToken::decode(token).unwrap().version
}

async fn call(mut client: Client, caller: usize, counts: Arc<Mutex<Counts>>, stop: watch::Receiver<bool>) {
    let candidates: Vec<String> = (1..=20).map(|n| format!("i{}", n * 7)).collect();
    let mut n = 0;
    while !*stop.borrow() {
        n += 1;
        let user = format!("u{}", 1 + caller * 5 + n % 5);
        let started = Instant::now();
        let appended = client.append_event(event(&user, format!("{caller}-{n}"), n)).await;
        let appended = match appended {
            Ok(appended) => appended.into_inner(),
            Err(status) => {
                let mut counts = counts.lock().unwrap();
                counts.calls += 1;
                counts.failures.push(Failure { started, what: format!("append: {status:?}") });
                continue;
            }
        };
        assert_eq!(appended.outcome(), Outcome::Applied);
        let started = Instant::now();
        let request = v1::RankRequest {
            user_id: user,
            candidate_item_ids: candidates.clone(),
            history_token: appended.history_token.clone(),
            ..Default::default()
        };
        let ranked = client.rank(request).await;
        let mut counts = counts.lock().unwrap();
        counts.calls += 2;
        match ranked {
            Ok(ranked) => {
                let ranked = ranked.into_inner();
                assert!(
                    version(&ranked.history_token) >= version(&appended.history_token),
                    "not the state of the token"
                );
                assert!(!ranked.stale_history && !ranked.cold_start && ranked.items.len() == candidates.len());
            }
            Err(status) => counts.failures.push(Failure { started, what: format!("rank: {status:?}") }),
        }
    }
}

/// Streams events; opens the stream again when it ends, and sends again what was not acknowledged. All of them are in
/// the history in the end, once each.
async fn stream(mut client: Client, number: usize, counts: Arc<Mutex<Counts>>, stop: watch::Receiver<bool>) {
    let user = format!("streamed-{number}");
    let mut open: VecDeque<v1::AppendEventRequest> = VecDeque::new();
    let mut made = 0;
    let mut last_token = String::new();
    loop {
        let (sender, receiver) = mpsc::channel(WINDOW);
        for event in &open {
            sender.try_send(event.clone()).unwrap();
        }
        let mut answers = match client.append_events(ReceiverStream::new(receiver)).await {
            Ok(answers) => answers.into_inner(),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        loop {
            while open.len() < WINDOW && !*stop.borrow() {
                made += 1;
                let event = event(&user, format!("{user}-{made}"), made);
                open.push_back(event.clone());
                // There is room; it fails only when the stream has ended, which the next answer tells.
                let _ = sender.try_send(event);
            }
            if open.is_empty() {
                break;
            }
            match answers.message().await {
                Ok(Some(answer)) => {
                    let sent = open.pop_front().unwrap().event.unwrap();
                    assert_eq!(answer.event_id, sent.event_id, "acknowledgements are in order");
                    // A duplicate was stored, but its acknowledgement was lost.
                    assert!(matches!(answer.outcome(), Outcome::Applied | Outcome::Duplicate), "{answer:?}");
                    last_token = answer.history_token;
                    counts.lock().unwrap().streamed[number] += 1;
                }
                Ok(None) | Err(_) => break,
            }
            // Not as fast as possible: the cores are for everyone.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        if open.is_empty() {
            break;
        }
        counts.lock().unwrap().reconnects += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let request = v1::GetHistoryRequest { user_id: user, history_token: last_token };
    let history = client.get_history(request).await.unwrap().into_inner();
    assert_eq!(history.stored_recommendations as usize, made.min(300), "the newest 300 of {made} events are kept");
    let newest = history.recommendations.last().unwrap();
    assert_eq!(newest.event_id, format!("streamed-{number}-{made}"));
}
