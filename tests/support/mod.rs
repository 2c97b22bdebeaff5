//! A real server on free ports, over a model whose scores can be computed by hand and a store that can be broken.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod metric;
pub mod model;
pub mod store;
#[allow(clippy::duplicate_mod, reason = "a part of several helpers, each of which can be there alone")]
mod wait;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pbjson_types::Timestamp;
use sesrec::{
    engine::{Engine, EngineOptions, ModelSlot},
    proto::v1::{self, event::Payload, ranking_service_client::RankingServiceClient, search::QueryForm},
    service::{RankingServer, Server, ServerError, ServerOptions, ServiceOptions},
    telemetry::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::transport::Channel;

pub use model::ModelControl;
pub use store::{Fault, FaultyStore};
pub use wait::{PATIENCE, until};

pub type Client = RankingServiceClient<Channel>;

/// What a test may change before the server starts.
#[derive(Default)]
pub struct Setup {
    pub engine: EngineOptions,
    pub service: ServiceOptions,
    pub server: ServerOptions,
}

/// A running server.
pub struct TestServer {
    pub address: SocketAddr,
    pub metrics_address: SocketAddr,
    pub store: Arc<FaultyStore>,
    pub model: ModelControl,
    pub slot: Arc<ModelSlot>,
    pub metrics: Metrics,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), ServerError>>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        // Whose timeouts are short says so.
        (setup.service.timeouts.default, setup.service.timeouts.store) = (PATIENCE, PATIENCE);
        setup.server.ping_interval = Duration::from_millis(20);
        configure(&mut setup);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let metrics_listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, metrics_address) = (listener.local_addr().unwrap(), metrics_listener.local_addr().unwrap());

        let metrics = Metrics::new();
        let (loaded, model) = model::loaded("v1");
        let slot = Arc::new(ModelSlot::new(loaded, metrics.clone()));
        let engine = Engine::start(slot.clone(), setup.engine, metrics.clone());
        let store = Arc::new(FaultyStore::new());
        let service = RankingServer::new(store.clone(), engine, slot.clone(), metrics.clone(), setup.service);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(Server::new(service, setup.server).run(listener, Some(metrics_listener), shutdown));
        let server = Self { address, metrics_address, store, model, slot, metrics, stop: Some(stop), task: Some(task) };
        server.until("ready", || async { server.http("/readyz").await.starts_with("HTTP/1.1 200") }).await;
        server
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.expect("connects")
    }

    pub async fn client(&self) -> Client {
        RankingServiceClient::new(self.channel().await)
    }

    /// Asks the metrics port; the whole answer, headers included. Empty if it is closed.
    pub async fn http(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.metrics_address).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).await.is_ok() {
            let _ = stream.read_to_string(&mut answer).await;
        }
        answer
    }

    /// The value of a series.
    pub fn metric(&self, series: &str) -> f64 {
        metric::value(&self.metrics.encode(), series)
    }

    /// Waits until `condition` holds; the test fails after [`PATIENCE`].
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        until(what, async || condition().await).await;
    }

    /// Sends the shutdown signal; the server drains.
    pub fn signal(&mut self) {
        let _ = self.stop.take().expect("signalled once").send(());
    }

    /// Waits for the end of a signalled server.
    pub async fn ended(&mut self) {
        let task = self.task.take().expect("awaited once");
        let ended = tokio::time::timeout(PATIENCE, task).await.expect("the server ends");
        ended.expect("no panic").expect("no error");
    }
}

pub fn rank_request(user: &str, items: &[&str]) -> v1::RankRequest {
    v1::RankRequest {
        user_id: user.into(),
        candidate_item_ids: items.iter().map(|item| (*item).to_owned()).collect(),
        ..Default::default()
    }
}

/// `seconds` after a fixed time that is recent enough for any time to live: the start of yesterday, when it was asked
/// for first.
pub fn time(seconds: i64) -> Timestamp {
    static YESTERDAY: OnceLock<i64> = OnceLock::new();
    let yesterday = YESTERDAY.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        (now - now % 86_400).cast_signed() - 86_400
    });
    Timestamp { seconds: yesterday + seconds, nanos: 0 }
}

pub fn event(user: &str, event_id: &str, seconds: i64, payload: Payload) -> v1::AppendEventRequest {
    let event = v1::Event {
        event_id: event_id.into(),
        user_id: user.into(),
        time: Some(time(seconds)),
        payload: Some(payload),
    };
    v1::AppendEventRequest { event: Some(event) }
}

pub fn recommendation(item: &str) -> Payload {
    Payload::Recommendation(v1::Recommendation { item_id: item.into() })
}

pub fn search(search_id: &str, query: &str, clicks: &[&str]) -> Payload {
    Payload::Search(v1::Search {
        search_id: search_id.into(),
        query_form: Some(QueryForm::Query(query.into())),
        source: String::new(),
        clicked_item_ids: clicks.iter().map(|item| (*item).to_owned()).collect(),
    })
}

pub fn click(search_id: &str, item: &str) -> Payload {
    Payload::SearchClick(v1::SearchClick { search_id: search_id.into(), item_id: item.into() })
}

pub fn ids(items: &[v1::RankedItem]) -> Vec<&str> {
    items.iter().map(|item| item.item_id.as_str()).collect()
}
