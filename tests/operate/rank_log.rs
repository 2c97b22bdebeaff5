//! From answers to the metrics of live traffic: served, logged, joined with what users did afterwards.

use sesrec::{
    domain::EventTime,
    proto::v1::{self, ranking_service_client::RankingServiceClient},
};

use crate::{
    bundle,
    plant::Replica,
    program,
    support::{event, rank_request, recommendation},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_traffic_is_measured_by_what_users_clicked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    bundle::write(&path("bundle"));
    let log = path("ranks.ndjson");
    let more = ["--rank-log", log.to_str().unwrap(), "--rank-log-sample", "1"];
    let mut server = Replica::start(&path("bundle"), "memory", &more);
    server.ready().await;
    let mut client = RankingServiceClient::connect(format!("http://{}", server.address())).await.unwrap();
    let items = ["i1", "i2", "i3", "i4", "i5"];
    // The first user clicks the second place, the second one the first, the third nothing.
    let mut events = String::new();
    for (user, place) in [("u1", Some(1)), ("u2", Some(0)), ("u3", None)] {
        let answer: v1::RankResponse = client.rank(rank_request(user, &items)).await.unwrap().into_inner();
        if let Some(place) = place {
            let mut clicked = event(user, "click", 0, recommendation(&answer.items[place].item_id)).event.unwrap();
            clicked.time = Some(EventTime::now().into());
            events += &(serde_json::to_string(&clicked).unwrap() + "\n");
        }
    }
    drop(client);
    server.terminate();

    std::fs::write(path("events.ndjson"), events).unwrap();
    let evaluate = |arguments: &[&str]| {
        let output = program::sesrec().arg("evaluate").args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (events, json) = (path("events.ndjson"), path("report.json"));
    let arguments = ["--rank-log", log.to_str().unwrap(), "--events", events.to_str().unwrap()];
    let (good, said, errors) = evaluate(&[&arguments[..], &["--json", json.to_str().unwrap()]].concat());
    assert!(good, "{errors}");
    assert!(said.contains("2 of 3 logged answers were clicked (66.67 %)"), "{said}");
    assert!(said.contains("0 of 2 interactions belong to no logged answer"), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let model = report["models"].as_object().unwrap().values().next().unwrap();
    assert_eq!((model["hit@1"].as_f64(), model["mrr"].as_f64()), (Some(0.5), Some(0.75)), "{report}");

    // What can't be read is named.
    std::fs::write(&log, "{}\n").unwrap();
    let (good, _, errors) = evaluate(&arguments);
    assert!(!good && errors.contains("ranks.ndjson, line 1: not a line of a rank log"), "{errors}");
    let (good, _, errors) = evaluate(&arguments[..2]);
    assert!(!good && errors.contains("--events"), "{errors}");
}
