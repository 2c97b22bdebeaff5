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
}

impl Connections {
    /// `close` ends the connections, not the listener.
    pub(super) fn new(listener: TcpListener, limits: Limits, close: CancellationToken) -> Self {
        Self { listener, limits, close, permits: Arc::new(Semaphore::new(limits.connections)) }
    }

    async fn next(&mut self) -> (Connection, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = loop {
            match self.listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    // Usually out of file descriptors: accepting at once again would only burn a core.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let closed = Box::pin(self.close.clone().cancelled_owned());
        let silence = Silence::new(self.limits.silence);
        let end = self.limits.age.map(|age| Box::pin(sleep(age)));
        (Connection { stream, closed, silence, end, _permit: permit }, address)
    }

    /// As tonic wants them.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |mut connections| async move {
            let (connection, _) = connections.next().await;
            Some((Ok(connection), connections))
        })
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
