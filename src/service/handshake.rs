//! TLS before HTTP/2: connections are handed on once their handshake is over.
//!
//! tonic does the same, but keeps the certificate that it began with; here each handshake takes the one of now.

use std::{future::ready, io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;

use super::{auth::Certificates, connection::Connection};
use crate::telemetry::Metrics;

/// How long a handshake may take: one that is begun and not ended holds a connection's place.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The connections whose handshakes succeed, `at_once` of them under way: one that is slow holds no other up.
pub(super) fn handshakes(
    connections: impl Stream<Item = io::Result<Connection>>,
    certificates: Arc<Certificates>,
    at_once: usize,
    metrics: Metrics,
) -> impl Stream<Item = io::Result<TlsStream<Connection>>> {
    let begun = connections.map(move |connection| {
        let acceptor = TlsAcceptor::from(certificates.config());
        // In a task of its own: it computes for a millisecond.
        AbortOnDropHandle::new(tokio::spawn(async move {
            timeout(HANDSHAKE, acceptor.accept(connection?)).await.unwrap_or_else(|late| Err(late.into()))
        }))
    });
    begun.buffer_unordered(at_once).filter_map(move |ended| {
        let connection = ended.map_err(io::Error::from).and_then(|ended| ended);
        // Callers who don't trust the certificate, or are not trusted; who only looks whether somebody listens.
        let connection = connection.inspect_err(|error| {
            metrics.handshake_failed();
            tracing::debug!(%error, "TLS handshake");
        });
        ready(connection.ok().map(Ok))
    })
}
