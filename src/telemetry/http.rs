//! The port for scrapers and probes, apart from the gRPC port so that it needs no credentials and no HTTP/2.
//!
//! `/metrics`: OpenMetrics where the scraper accepts it, else Prometheus text. `/healthz`: the process answers.
//! `/readyz`: 200 if traffic may come, else 503 and the reason. `/loglevel`: GET tells the log's filter, PUT changes
//! it; only for callers on the same machine (`kubectl port-forward` makes one of you). A connection is closed after its
//! first answer.

use std::{future::Future, io, net::SocketAddr};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, State, connect_info::Connected},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
    serve::{IncomingStream, Listener},
};

use super::{Metrics, ReadinessWatch, logging};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a log filter may have.
const MAX_BODY_BYTES: usize = 4096;

/// Serves until `shutdown` ends.
///
/// # Errors
/// None at present: axum's server ends without one.
pub async fn run<L: Listener<Addr = SocketAddr>>(
    listener: L,
    metrics: Metrics,
    readiness: ReadinessWatch,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .with_state((metrics, readiness.clone()))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(move || async move { ready(&readiness) }))
        .route("/loglevel", get(log_level).put(change_log_level))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(map_response(the_last));
    let service = router.into_make_service_with_connect_info::<Caller>();
    axum::serve(Told(listener), service).with_graceful_shutdown(shutdown).await
}

/// Who is at the other end.
#[derive(Clone)]
struct Caller(SocketAddr);

impl<L: Listener<Addr = SocketAddr>> Connected<IncomingStream<'_, Told<L>>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Told<L>>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Any listener, as a type of this crate: handlers are told callers' addresses only of such ones.
struct Told<L>(L);

impl<L: Listener<Addr = SocketAddr>> Listener for Told<L> {
    type Io = L::Io;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (L::Io, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// No further request on this connection: who holds one holds it for no longer than an answer takes.
async fn the_last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn scrape(
    State((metrics, readiness)): State<(Metrics, ReadinessWatch)>,
    headers: HeaderMap,
) -> impl IntoResponse {
    metrics.ready(readiness.state().is_ok());
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("application/openmetrics-text") {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode())
    } else {
        ([(header::CONTENT_TYPE, PROMETHEUS)], metrics.encode_prometheus())
    }
}

async fn log_level() -> String {
    logging::directives().unwrap_or_default() + "\n"
}

/// At debug the log has what users do: not for everyone who may scrape.
async fn change_log_level(
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    directives: String,
) -> (StatusCode, String) {
    if !caller.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "only from this machine\n".into());
    }
    match logging::change(&directives) {
        Ok(()) => (StatusCode::OK, directives.trim().to_owned() + "\n"),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn ready(readiness: &ReadinessWatch) -> (StatusCode, String) {
    match readiness.state() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };

    use super::*;
    use crate::telemetry::Readiness;

    async fn ask(address: std::net::SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_scrapers_and_probes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, readiness) = (Metrics::new(), Readiness::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(run(listener, metrics.clone(), readiness.watch(), async {
            let _ = stopped.await;
        }));

        let answer = ask(address, "/readyz", "*/*").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("not ready: starting"), "{answer}");
        assert!(ask(address, "/metrics", "*/*").await.contains("sesrec_ready 0"));
        readiness.ready();
        assert!(ask(address, "/metrics", "*/*").await.contains("sesrec_ready 1"));
        assert!(ask(address, "/readyz", "*/*").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/healthz", "*/*").await.starts_with("HTTP/1.1 200"));

        metrics.stale_answer();
        let classic = ask(address, "/metrics", "text/plain").await;
        assert!(classic.contains("# TYPE sesrec_rank_stale_answers_total counter"), "{classic}");
        let open = ask(address, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
        assert!(open.contains("sesrec_rank_stale_answers_total 1") && open.contains("# EOF"), "{open}");

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
