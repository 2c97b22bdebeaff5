//! The same scores offline and through a real server, for every model: events go in one by one, and come back as the
//! history that the model sees.

use std::{sync::Arc, time::Duration};

use candle_core::Device;
use pbjson_types::Timestamp;
use sesrec::{
    data::Featurizer,
    domain::{History, HistorySearch, ItemId, Query, UserId},
    engine::{Engine, EngineOptions, LoadedModel, ModelSlot},
    history::{HistoryOptions, MemoryStore, SystemClock},
    model::{Bundle, ModelConfig, RankerOptions, ScoreRequest},
    nn::sigmoid,
    proto::v1::{self, event::Payload, ranking_service_client::RankingServiceClient, search::QueryForm},
    service::{RankingServer, Server, ServerOptions, ServiceOptions},
    telemetry::Metrics,
};
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    contract::{models, trainable},
    fixture::catalogue,
};

/// A search among the clicks: after how many of them, which query, which clicked items.
const SEARCHES: [(usize, &str, &[&str]); 2] = [(1, "e3", &["e4"]), (3, "e5", &["e7", "e8"])];
const CLICKS: [&str; 4] = ["e1", "e5", "e2", "e9"];

fn events() -> Vec<Payload> {
    let mut events = vec![];
    for n in 0..=CLICKS.len() {
        for (_, query, clicks) in SEARCHES.iter().filter(|(place, ..)| *place == n) {
            events.push(Payload::Search(v1::Search {
                search_id: format!("search {n}"),
                query_form: Some(QueryForm::Query((*query).into())),
                source: "e1".into(),
                clicked_item_ids: clicks.iter().map(|item| (*item).to_owned()).collect(),
            }));
        }
        let click = CLICKS.get(n).map(|item| v1::Recommendation { item_id: (*item).into() });
        events.extend(click.map(Payload::Recommendation));
    }
    events
}

/// The same by hand.
fn history() -> History {
    let item = |id: &&str| ItemId::new(id).unwrap();
    let searches = SEARCHES.iter().map(|(place, query, clicks)| HistorySearch {
        search_id: None,
        query: Query::Text((*query).into()),
        source: Some("e1".into()),
        clicked_item_ids: clicks.iter().map(item).collect(),
        place: *place,
    });
    History { recommendations: CLICKS.iter().map(item).collect(), searches: searches.collect() }
}

#[tokio::test]
async fn the_same_scores_offline_and_through_a_server() {
    for config in models() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let tensors = trainable(&config).parameters().snapshot().unwrap();
        Bundle::new(config.clone(), catalogue(), tensors, None).unwrap().write(&path).unwrap();
        let items: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();

        let bundle = Bundle::read(&path).unwrap();
        let ranker = bundle.ranker(&Device::Cpu, RankerOptions::default()).unwrap();
        let featurizer = Featurizer::new(bundle.catalogue.clone(), ranker.limits());
        for (user, with_history) in [("e2", true), ("stranger", true), ("e3", false)] {
            let history = if with_history { history() } else { History::default() };
            let features = featurizer.features(&UserId::new(user).unwrap(), &history).features;
            assert_eq!(features.searches.len(), history.searches.len().min(config.limits().searches));
            let rows: Vec<u32> =
                items.iter().map(|item| featurizer.item(&ItemId::new(item).unwrap()).unwrap()).collect();
            let states = ranker.encode(&[&features]).unwrap();
            let mut offline = ranker.score(&[ScoreRequest { state: &states[0], items: &rows }]).unwrap().remove(0);
            sigmoid(&mut offline);

            let served = served(&config, &path, user, if with_history { events() } else { vec![] }, &items).await;
            for (item, score) in items.iter().zip(&offline) {
                let answer = served.iter().find(|ranked| ranked.item_id == *item).unwrap();
                let kind = config.kind();
                assert!((answer.score - score).abs() < 1e-6, "{kind}, {user}, {item}: {} vs {score}", answer.score);
            }
        }
    }
}

/// Starts a server on the bundle, appends the events, and asks for the items twice: encoded, then from the cache.
async fn served(
    config: &ModelConfig,
    bundle: &std::path::Path,
    user: &str,
    events: Vec<Payload>,
    items: &[String],
) -> Vec<v1::RankedItem> {
    let metrics = Metrics::new();
    let model = LoadedModel::load(bundle, &Device::Cpu, RankerOptions::default()).unwrap();
    let slot = Arc::new(ModelSlot::new(model, metrics.clone()));
    let engine = Engine::start(slot.clone(), EngineOptions::default(), metrics.clone());
    let store = Arc::new(MemoryStore::new(HistoryOptions::default(), Arc::new(SystemClock)));
    let mut options = ServiceOptions::default();
    options.timeouts.default = Duration::from_secs(60);
    let service = RankingServer::new(store, engine, slot, metrics, options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(Server::new(service, ServerOptions::default()).run(listener, None, async {
        let _ = stopped.await;
    }));

    let mut client = RankingServiceClient::connect(address).await.unwrap();
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let start = (start - Duration::from_secs(3600)).as_secs().cast_signed();
    let mut token = String::new();
    for (n, payload) in (0..).zip(events) {
        let event = v1::Event {
            event_id: format!("event {n}"),
            user_id: user.into(),
            time: Some(Timestamp { seconds: start + n, nanos: 0 }),
            payload: Some(payload),
        };
        let request = v1::AppendEventRequest { event: Some(event) };
        token = client.append_event(request).await.unwrap().into_inner().history_token;
    }
    let request = v1::RankRequest {
        user_id: user.into(),
        candidate_item_ids: items.to_vec(),
        history_token: token,
        explain: true,
        ..Default::default()
    };
    let first = client.rank(request.clone()).await.unwrap().into_inner();
    let second = client.rank(request).await.unwrap().into_inner();
    let scores = |answer: &v1::RankResponse| answer.items.iter().map(|item| item.score).collect::<Vec<_>>();
    assert_eq!(scores(&first), scores(&second), "{}", config.kind());
    drop(client);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    first.items
}
