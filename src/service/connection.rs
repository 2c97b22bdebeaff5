//! Accepted connections: counted, and closable from this side.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::telemetry::{ConnectionGuard, Metrics, Throttle};

/// A connection that ends with an error once its server closes it, its time is over, or its caller has been silent for
/// too long.
///
/// tonic waits for ever for the connections of callers that never close: closing them from here is how the drain gets
/// an end. Its pings begin with HTTP/2: a caller that connects and says nothing would be kept for ever, but for the
/// silence.
pub(super) struct Connection {
    stream: TcpStream,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    silence: Silence,
    /// At which it ends, whatever goes on.
    end: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
    _counted: Option<ConnectionGuard>,
}

/// What connections may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At once: further ones wait in the listener's backlog.
    pub(super) connections: usize,
    /// Without a byte from the caller.
    pub(super) silence: Duration,
    /// In all; `None` is for ever.
    pub(super) age: Option<Duration>,
}

/// Since when nothing has come. The timer is set anew only when it fires, not with every read.
struct Silence {
    limit: Duration,
    last_read: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        let last_read = Instant::now();
        Self { limit, last_read, timer: Box::pin(sleep_until(last_read + limit)) }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let end = self.last_read + self.limit;
            if end <= Instant::now() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the caller is silent"));
            }
            self.timer.as_mut().reset(end);
        }
        Ok(())
    }
}

/// A listener whose connections keep to the limits.
pub(super) struct Connections {
    listener: TcpListener,
    limits: Limits,
    close: CancellationToken,
    permits: Arc<Semaphore>,
    failures: Failures,
    /// Where those of callers are counted; the metrics port's are not.
    callers: Option<Metrics>,
    fullness: Fullness,
}

impl Connections {
    /// `close` ends the connections, not the listener.
    pub(super) fn new(listener: TcpListener, limits: Limits, close: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(limits.connections));
        let (failures, fullness) = (Failures::new(), Fullness::default());
        Self { listener, limits, close, permits, failures, callers: None, fullness }
    }

    /// They are callers': counted, and the log says when there is no place for another.
    pub(super) fn of_callers(self, metrics: Metrics) -> Self {
        Self { callers: Some(metrics), ..self }
    }

    async fn next(&mut self) -> (Connection, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = loop {
            match self.listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    if let Some(more) = self.failures.pass(&error, Instant::now()) {
                        tracing::warn!(%error, more, "cannot accept a connection");
                    }
                    // Usually out of file descriptors: accepting at once again would only burn a core.
                    sleep(Duration::from_millis(100)).await;
                }
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let closed = Box::pin(self.close.clone().cancelled_owned());
        let silence = Silence::new(self.limits.silence);
        let end = self.limits.age.map(|age| Box::pin(sleep(age)));
        let counted = self.callers.as_ref().map(Metrics::connection);
        if counted.is_some() && self.fullness.taken(self.permits.available_permits(), self.limits.connections) {
            tracing::warn!(
                connections = self.limits.connections,
                "no place for another connection: further callers wait until one closes (--max-connections)"
            );
        }
        (Connection { stream, closed, silence, end, _permit: permit, _counted: counted }, address)
    }

    /// As tonic wants them.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |mut connections| async move {
            let (connection, _) = connections.next().await;
            Some((Ok(connection), connections))
        })
    }
}

/// Failures to accept, which come ten times a second while they last.
struct Failures {
    /// Of the last one.
    kind: Option<(io::ErrorKind, Option<i32>)>,
    lines: Throttle,
}

impl Failures {
    fn new() -> Self {
        Self { kind: None, lines: Throttle::new() }
    }

    /// `None`: not to be told now; else how many of its kind have not been told since the last that was.
    fn pass(&mut self, error: &io::Error, now: Instant) -> Option<u64> {
        let kind = Some((error.kind(), error.raw_os_error()));
        if self.kind != kind {
            *self = Self { kind, ..Self::new() };
        }
        self.lines.pass(now.into_std())
    }
}

/// Whether all places are taken. Told once, not for every place that becomes free and is taken again: not before there
/// is room for more than a few.
#[derive(Debug, Default)]
struct Fullness {
    told: bool,
}

impl Fullness {
    /// Another place is taken, `free` of `places` are left. Whether that is to be told.
    fn taken(&mut self, free: usize, places: usize) -> bool {
        if free == 0 {
            return !std::mem::replace(&mut self.told, true);
        }
        if free > places / 16 {
            self.told = false;
        }
        false
    }
}

/// As axum wants them.
impl axum::serve::Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    fn stream(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped"));
        }
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection's time is over"));
        }
        Ok(Pin::new(&mut self.get_mut().stream))
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.as_mut().stream(cx)?.poll_read(cx, buffer);
        match read {
            Poll::Ready(_) => self.silence.last_read = Instant::now(),
            Poll::Pending => self.silence.check(cx)?,
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_port_is_told_once_each_time() {
        let mut fullness = Fullness::default();
        let taken = |fullness: &mut Fullness, free: usize| fullness.taken(free, 160);
        assert!(!taken(&mut fullness, 1));
        assert!(taken(&mut fullness, 0));
        // One goes, another comes.
        assert!(!taken(&mut fullness, 0));
        assert!(!taken(&mut fullness, 10), "still as good as full");
        assert!(!taken(&mut fullness, 0));
        assert!(!taken(&mut fullness, 11));
        assert!(taken(&mut fullness, 0), "it has had room meanwhile");
    }

    #[test]
    fn failures_to_accept_are_a_line_a_second_or_another_line() {
        let (mut failures, start) = (Failures::new(), Instant::now());
        let [no_file, no_buffer] = [24, 105].map(io::Error::from_raw_os_error);
        let mut pass = |error, tenths: u32| failures.pass(error, start + tenths * Duration::from_millis(100));
        assert_eq!(pass(&no_file, 0), Some(0));
        for tenths in 1..10 {
            assert_eq!(pass(&no_file, tenths), None);
        }
        assert_eq!(pass(&no_file, 10), Some(9));
        assert_eq!(pass(&no_buffer, 11), Some(0), "it has changed");
        assert_eq!(pass(&no_buffer, 12), None);
    }

    #[tokio::test]
    async fn callers_are_counted_while_they_are_connected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections: 3, silence: Duration::from_secs(60), age: None };
        let metrics = Metrics::new();
        let mut connections = Connections::new(listener, limits, CancellationToken::new()).of_callers(metrics.clone());
        let open = || {
            let text = metrics.encode();
            let value = text.lines().find_map(|line| line.strip_prefix("sesrec_connections "));
            value.expect("the series").parse::<i64>().unwrap()
        };
        assert_eq!(open(), 0);
        let _callers = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (first, _) = connections.next().await;
        let second = connections.next().await;
        assert_eq!(open(), 2);
        drop(first);
        assert_eq!(open(), 1);
        drop(second);
        assert_eq!(open(), 0);
    }
}
