//! Traces: a span per request and per stage, under the caller's W3C trace context, sent by OTLP.
//!
//! Stages are measured anyway, for metrics and answers; their spans are made of those times afterwards. Where nothing
//! is exported, only the caller's trace id is read, for the log.

use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::time::Instant;
use tonic::{Code, codegen::http::HeaderMap};

use super::{Rpc, guards::code_name};

/// Where the process sends its spans. Set once, like the log.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What is traced, and where it goes.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceOptions {
    /// Where spans are sent by OTLP over gRPC, as in http://localhost:4317: a collector beside the server or in its
    /// network. Default: nowhere.
    #[arg(long, value_name = "URL", value_parser = parse_endpoint)]
    otlp_endpoint: Option<String>,
    /// Share of requests that are traced where the caller does not say; a caller's choice (traceparent) is followed.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = crate::units::parse_share)]
    trace_sample: f64,
}

fn parse_endpoint(url: &str) -> Result<String, String> {
    if url.starts_with("http://") {
        Ok(url.into())
    } else {
        Err("only http:// is spoken here; a collector in the same network takes it on by TLS".into())
    }
}

/// The exporter could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("--otlp-endpoint: {0}")]
pub struct TraceError(#[from] opentelemetry_otlp::ExporterBuildError);

/// The exporter's end of the process: spans leave in batches, and the last ones when it is closed.
#[must_use = "spans that are not flushed are lost"]
pub struct TraceExport(Option<SdkTracerProvider>);

/// Starts exporting, if that is wanted. Connects when the first spans are sent, and again after failures; the queue
/// before is bounded, and what finds it full is dropped. Must be called in the async runtime.
///
/// # Errors
/// If no exporter can be made for the endpoint. A collector that can't be reached is no error.
pub fn export(options: &TraceOptions) -> Result<TraceExport, TraceError> {
    let Some(endpoint) = &options.otlp_endpoint else { return Ok(TraceExport(None)) };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.trace_sample))))
        .with_resource(Resource::builder().with_service_name("sesrec").with_attribute(version).build())
        .build();
    // A second server in one process goes on with the first one's tracer.
    let _ = TRACER.set(provider.tracer("sesrec"));
    Ok(TraceExport(Some(provider)))
}

impl TraceExport {
    /// Sends what is left.
    pub async fn close(self) {
        let Some(provider) = self.0 else { return };
        let closed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(Duration::from_secs(3))).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// A request's span. Ended without a code, its caller went away.
pub struct RequestTrace {
    context: Context,
    finished: bool,
}

impl RequestTrace {
    /// A request arrives.
    pub fn begin(rpc: Rpc, headers: &HeaderMap, request_id: &str) -> Self {
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let context = match TRACER.get() {
            None => context,
            Some(tracer) => {
                let builder = tracer
                    .span_builder(format!("sesrec.v1.RankingService/{}", rpc.label()))
                    .with_kind(SpanKind::Server)
                    .with_attributes([
                        KeyValue::new("rpc.system", "grpc"),
                        KeyValue::new("rpc.service", "sesrec.v1.RankingService"),
                        KeyValue::new("rpc.method", rpc.label()),
                        KeyValue::new("request.id", request_id.to_owned()),
                    ]);
                let span = tracer.build_with_context(builder, &context);
                context.with_span(span)
            }
        };
        Self { context, finished: false }
    }

    /// The trace's id, if the request belongs to one.
    pub fn id(&self) -> Option<String> {
        let span = self.context.span();
        let context = span.span_context();
        context.is_valid().then(|| context.trace_id().to_string())
    }

    /// What the request's future runs in, so that [`note`] finds it.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// It was answered.
    pub fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        self.finished = true;
        let span = self.context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
            // By the conventions for servers: what the caller did wrong is no error of this span.
            if matches!(
                code,
                Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss
            ) {
                span.set_status(Status::Error { description: Cow::Borrowed(code_name(code)) });
            }
            span.end();
        }
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Code::Cancelled);
        }
    }
}

/// Notes as a span of the current request what began at `started` and took `time`.
pub fn note(name: &'static str, started: Instant, time: Duration) {
    let Some(tracer) = TRACER.get() else { return };
    Context::map_current(|context| {
        if context.span().is_recording() {
            let began = SystemTime::now() - started.elapsed();
            let builder = tracer.span_builder(name).with_start_time(began);
            tracer.build_with_context(builder, context).end_with_timestamp(began + time);
        }
    });
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|key| key.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderValue;

    use super::*;

    #[test]
    fn the_callers_trace_is_known_without_an_exporter() {
        let id = |traceparent: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(traceparent));
            RequestTrace::begin(Rpc::Rank, &headers, "r").id()
        };
        let known = id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(known.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        for malformed in ["", "no trace", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            assert_eq!(id(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn options_are_checked() {
        assert!(parse_endpoint("https://collector:4317").unwrap_err().contains("http://"));
    }
}
