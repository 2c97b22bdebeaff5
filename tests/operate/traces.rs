//! Spans by OTLP under the caller's trace, and the log: JSON lines with ids, whose level changes while the server runs.

use std::{
    fs::File,
    process::Stdio,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use sesrec::proto::v1::ranking_service_client::RankingServiceClient;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use crate::{
    bundle,
    plant::Replica,
    redis_server::until,
    support::{event, rank_request, search},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn traced<T>(message: T, sampled: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-{sampled}").parse().unwrap());
    request.metadata_mut().insert("x-request-id", "the-request".parse().unwrap());
    request
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_and_log_lines_belong_to_the_callers_trace() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
    tokio::spawn(service.serve_with_incoming(TcpListenerStream::new(listener)));

    let directory = tempfile::tempdir().unwrap();
    let (model, log) = (directory.path().join("bundle"), directory.path().join("log"));
    bundle::write(&model);
    let more = ["--otlp-endpoint", &endpoint, "--trace-sample", "0", "--log-format", "json", "--log", "info"];
    let mut server = Replica::logging_to(Stdio::from(File::create(&log).unwrap()), &model, "memory", &more);
    server.ready().await;
    let mut client = RankingServiceClient::connect(format!("http://{}", server.address())).await.unwrap();

    client
        .append_event(traced(event("hidden-user", "e1", 1, search("s", "hidden query", &["i3"])), "01"))
        .await
        .unwrap();
    client.rank(traced(rank_request("hidden-user", &["i1", "i2"]), "01")).await.unwrap();
    // Nobody wants to have these: the caller says so, or the dice.
    client.rank(traced(rank_request("hidden-user", &["i1"]), "00")).await.unwrap();
    client.rank(rank_request("hidden-user", &["i1"])).await.unwrap();
    let refuse = async |client: &mut RankingServiceClient<_>| {
        let status = client.rank(traced(rank_request("", &["hidden-item"]), "01")).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    };
    refuse(&mut client).await;

    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&log).unwrap();
        // The last one may be being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    };
    let refused = || lines().into_iter().filter(|line| line["message"] == "refused").collect::<Vec<_>>();
    assert!(refused().is_empty(), "not at info");
    assert!(server.http("PUT", "/loglevel", "sesrec=loud").starts_with("HTTP/1.1 400"));
    assert!(server.http("PUT", "/loglevel", "info,sesrec=debug").starts_with("HTTP/1.1 200"));
    assert!(server.http("GET", "/loglevel", "").contains("sesrec=debug"));
    refuse(&mut client).await;
    until("the refusal is in the log", async || !refused().is_empty()).await;
    let refused = refused();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["span"]["id"], "the-request");
    assert_eq!(refused[0]["span"]["trace_id"], TRACE);
    assert_eq!(refused[0]["span"]["rpc"], "Rank");

    drop(client);
    server.terminate();
    for line in lines().iter().filter(|line| line["level"] != "DEBUG") {
        assert!(!line.to_string().contains("hidden"), "what users do is in the log: {line}");
    }

    let spans = collector.0.lock().unwrap().clone();
    let named = |name: &str| -> Vec<&Span> { spans.iter().filter(|span| span.name == name).collect() };
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
    }
    let ranks = named("sesrec.v1.RankingService/Rank");
    assert_eq!(ranks.len(), 3, "one that was answered, two that were refused: {spans:#?}");
    for rank in &ranks {
        assert_eq!((hex(&rank.parent_span_id).as_str(), rank.kind()), (CALLER, SpanKind::Server));
        // The caller's mistake is not the server's error.
        assert_ne!(rank.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
    }
    let mut end = 0;
    for stage in ["history", "queue", "encode", "score"] {
        let [span] = named(stage)[..] else { panic!("one span of {stage}: {spans:#?}") };
        let rank = ranks.iter().find(|rank| rank.span_id == span.parent_span_id).expect("below the Rank");
        let within = rank.start_time_unix_nano <= span.start_time_unix_nano + 1_000_000
            && span.end_time_unix_nano <= rank.end_time_unix_nano + 1_000_000;
        assert!(within, "{stage}: {span:#?} {rank:#?}");
        assert!(span.start_time_unix_nano + 1_000_000 >= end, "stages follow each other");
        end = span.end_time_unix_nano;
    }
    let [append] = named("sesrec.v1.RankingService/AppendEvent")[..] else { panic!("{spans:#?}") };
    let [store] = named("store")[..] else { panic!("{spans:#?}") };
    assert_eq!(store.parent_span_id, append.span_id);
}
