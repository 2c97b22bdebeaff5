//! Events from a Redis Stream, read as one consumer of a group: an entry is acknowledged there (XACK) once the server
//! has acknowledged its event, or once it lies in the dead-letter file. What a consumer leaves behind is read again: by
//! itself when it comes back, by others after a while. Repetitions are harmless, since events have ids.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use redis::{
    AsyncConnectionConfig, Client, RedisResult, Value,
    aio::MultiplexedConnection,
    cmd,
    streams::{StreamAutoClaimReply, StreamId, StreamInfoGroupsReply, StreamReadReply},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::source::{Line, MAX_LINE_BYTES};
use crate::units::parse_duration;

/// Entries per read.
const BATCH: usize = 256;
/// How long a read waits for entries.
const BLOCK: Duration = Duration::from_secs(1);
/// How long Redis may take for an answer, besides.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the group is asked how far it is behind.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Options about Redis Streams.
#[derive(Debug, Clone, clap::Args)]
pub struct StreamArgs {
    /// Consumer group of a stream; made at the stream's beginning where it is missing.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// This process in the group. Keep the name over restarts: what it has not acknowledged is read again first.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The field of an entry that has the event as JSON.
    #[arg(long, default_value = "event", value_name = "NAME")]
    field: String,
    /// Take over entries that any consumer left unacknowledged for this long.
    #[arg(long, default_value = "1m", value_parser = parse_duration, value_name = "DURATION")]
    claim_after: Duration,
    /// End when the stream has no further entries, instead of waiting for them.
    #[arg(long)]
    once: bool,
}

/// A stream's entries, and their acknowledgements.
pub(in crate::cli) struct StreamSource {
    entries: mpsc::Receiver<anyhow::Result<(String, Line)>>,
    settled: mpsc::UnboundedSender<String>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    acknowledger: JoinHandle<()>,
    watcher: JoinHandle<()>,
}

/// What the tasks have in common.
struct Shared {
    client: Client,
    stream: String,
    group: String,
    consumer: String,
    args: StreamArgs,
    /// How long to try while Redis can't be reached.
    retry_for: Duration,
    /// Entries that are taken and not acknowledged: whoever meets one again has it already.
    open: Mutex<HashSet<String>>,
    /// How many more may be.
    room: Semaphore,
    /// Entries that the group has not taken yet, and those taken and not acknowledged; -1 is unknown.
    lag: AtomicI64,
    pending: AtomicI64,
}

impl StreamSource {
    /// Whether an input is one.
    pub(in crate::cli) fn is_stream(input: &str) -> bool {
        input.starts_with("redis://") || input.starts_with("rediss://")
    }

    /// Joins the group. At most `window` entries and a batch are taken without being acknowledged.
    pub(super) async fn open(url: &str, args: &StreamArgs, window: usize, retry_for: Duration) -> anyhow::Result<Self> {
        let (base, stream) = split(url)?;
        let (Some(group), Some(consumer)) = (args.group.clone(), args.consumer.clone()) else {
            bail!("a stream is read by --consumer NAME of --group NAME");
        };
        let client = Client::open(base).context("the stream's URL")?;
        let shared = Arc::new(Shared {
            client,
            stream,
            group,
            consumer,
            args: args.clone(),
            retry_for,
            open: Mutex::default(),
            room: Semaphore::new(window + BATCH),
            lag: AtomicI64::new(-1),
            pending: AtomicI64::new(-1),
        });
        // What is wrong from the start is told at the start.
        let connection = shared.join().await?;
        let (sender, entries) = mpsc::channel(BATCH);
        let (settled, acknowledged) = mpsc::unbounded_channel();
        Ok(Self {
            entries,
            settled,
            reader: tokio::spawn(shared.clone().read(connection.clone(), sender)),
            acknowledger: tokio::spawn(shared.clone().acknowledge(acknowledged)),
            watcher: tokio::spawn(shared.clone().watch()),
            shared,
        })
    }

    /// The next entry; `None` at the end of a stream that is read once. May be dropped and called again.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<(String, Line)>> {
        self.entries.recv().await.transpose()
    }

    /// An entry has reached its end.
    pub(super) fn settled(&self, id: &str) {
        // Fails only when the task has ended with the process.
        let _ = self.settled.send(id.to_owned());
    }

    /// How far the group is behind.
    pub(super) fn status(&self) -> String {
        let count = |number: &AtomicI64| match number.load(Ordering::Relaxed) {
            -1 => "?".to_owned(),
            number => number.to_string(),
        };
        format!("lag {}, pending {}", count(&self.shared.lag), count(&self.shared.pending))
    }

    /// Waits until the last acknowledgements are out.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.reader.abort();
        self.watcher.abort();
        drop(self.settled);
        match timeout(PATIENCE, self.acknowledger).await {
            Ok(ended) => Ok(ended?),
            Err(_) => bail!("Redis did not take the last acknowledgements: their events will be read again"),
        }
    }
}

/// `redis://HOST:PORT[/DB]/STREAM` → the server's URL and the stream.
pub(in crate::cli) fn split(url: &str) -> anyhow::Result<(&str, String)> {
    let (base, stream) = url.rsplit_once('/').unwrap_or((url, ""));
    if stream.is_empty() || base.ends_with('/') {
        bail!("the URL lacks the stream: redis://HOST:PORT/STREAM, or redis://HOST:PORT/DB/STREAM");
    }
    Ok((base, stream.to_owned()))
}

impl Shared {
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(BLOCK + PATIENCE));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Connects and sees to the group.
    async fn join(&self) -> anyhow::Result<MultiplexedConnection> {
        let mut connection = self.connect().await.context("the stream's Redis")?;
        let made: RedisResult<()> = cmd("XGROUP")
            .arg(&["CREATE", &self.stream, &self.group, "0", "MKSTREAM"])
            .query_async(&mut connection)
            .await;
        match made {
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            made => made.with_context(|| format!("the stream {}", self.stream))?,
        }
        Ok(connection)
    }

    /// Reads to the end, if there is one, through any number of connections.
    async fn read(
        self: Arc<Self>,
        mut connection: MultiplexedConnection,
        entries: mpsc::Sender<anyhow::Result<(String, Line)>>,
    ) {
        let mut failing_since = None;
        loop {
            let error = match self.follow(&mut connection, &entries, &mut failing_since).await {
                Ok(()) => return,
                Err(error) => error,
            };
            // Once per outage.
            if failing_since.is_none() {
                eprintln!("the stream's Redis: {error}; trying again");
            }
            let since = *failing_since.get_or_insert_with(Instant::now);
            if since.elapsed() > self.retry_for {
                let _ = entries.send(Err(anyhow!(error).context("the stream's Redis"))).await;
                return;
            }
            sleep(Duration::from_millis(300)).await;
            if let Ok(joined) = self.join().await {
                connection = joined;
            }
        }
    }

    /// What this consumer left, then what comes, now and then what others left. Ends when nobody listens, or at the end
    /// of a stream that is read once.
    async fn follow(
        &self,
        connection: &mut MultiplexedConnection,
        entries: &mpsc::Sender<anyhow::Result<(String, Line)>>,
        failing_since: &mut Option<Instant>,
    ) -> RedisResult<()> {
        let mut own = Some("0".to_owned());
        let mut claimed_at: Option<Instant> = None;
        loop {
            let mut found = vec![];
            if claimed_at.is_none_or(|at| at.elapsed() > self.args.claim_after.min(Duration::from_secs(30))) {
                found = self.claim(connection).await?;
                claimed_at = Some(Instant::now());
            }
            let after = own.as_deref().unwrap_or(">");
            let read = self.take(connection, after).await?;
            *failing_since = None;
            let (nothing, last) = (read.is_empty() && found.is_empty(), read.last().map(|entry| entry.id.clone()));
            if nothing && own.is_none() && self.args.once {
                return Ok(());
            }
            own = own.and(last);
            found.extend(read);
            for entry in found {
                if !self.open().insert(entry.id.clone()) {
                    continue;
                }
                match self.room.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return Ok(()),
                }
                let line = self.line(&entry);
                if entries.send(Ok((entry.id, line))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn take(&self, connection: &mut MultiplexedConnection, after: &str) -> RedisResult<Vec<StreamId>> {
        let mut read = cmd("XREADGROUP");
        read.arg(&["GROUP", &self.group, &self.consumer]).arg("COUNT").arg(BATCH);
        // What is pending is there at once; at the end of a stream that is read once nothing is waited for.
        if after == ">" && !self.args.once {
            read.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        }
        let reply: Option<StreamReadReply> =
            read.arg(&["STREAMS", &self.stream, after]).query_async(connection).await?;
        Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
    }

    /// Takes over what any consumer has had for too long. What was trimmed meanwhile Redis takes off the pending
    /// entries, and tells only now: it comes as an entry without fields.
    async fn claim(&self, connection: &mut MultiplexedConnection) -> RedisResult<Vec<StreamId>> {
        let (mut claimed, mut from) = (vec![], "0-0".to_owned());
        loop {
            let reply: StreamAutoClaimReply = cmd("XAUTOCLAIM")
                .arg(&[&self.stream, &self.group, &self.consumer])
                .arg(self.args.claim_after.as_millis() as u64)
                .arg(&from)
                .arg("COUNT")
                .arg(BATCH)
                .query_async(connection)
                .await?;
            claimed.extend(reply.claimed);
            claimed.extend(reply.deleted_ids.into_iter().map(|id| StreamId { id, ..StreamId::default() }));
            from = reply.next_stream_id;
            // The rest next time, once there is room again.
            if from == "0-0" || claimed.len() >= BATCH {
                return Ok(claimed);
            }
        }
    }

    fn line(&self, entry: &StreamId) -> Line {
        match entry.map.get(&self.args.field) {
            Some(Value::BulkString(text)) if text.len() > MAX_LINE_BYTES => Line::TooLong,
            Some(Value::BulkString(text)) => Line::Text(text.clone()),
            _ if entry.map.is_empty() => Line::Unusable("was trimmed from the stream before it was read".into()),
            _ => Line::Unusable(format!("has no field {:?}", self.args.field)),
        }
    }

    /// Acknowledges what is settled, many at once, until all is.
    async fn acknowledge(self: Arc<Self>, mut settled: mpsc::UnboundedReceiver<String>) {
        let (mut connection, mut failing) = (None, false);
        let mut ids = vec![];
        while settled.recv_many(&mut ids, 4 * BATCH).await > 0 {
            while let Err(error) = self.acknowledge_once(&mut connection, &ids).await {
                // Once per outage: entries that are not acknowledged come again, and are duplicates then.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, stream = self.stream, "entries can't be acknowledged; trying again until they are");
                }
                connection = None;
                sleep(Duration::from_millis(200)).await;
            }
            failing = false;
            let mut open = self.open();
            ids.drain(..).for_each(|id| {
                open.remove(&id);
                self.room.add_permits(1);
            });
        }
    }

    async fn acknowledge_once(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        ids: &[String],
    ) -> RedisResult<()> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.connect().await?),
        };
        cmd("XACK").arg(&[&self.stream, &self.group]).arg(ids).query_async(connection).await
    }

    /// Asks how far the group is behind, as long as anyone wants to know.
    async fn watch(self: Arc<Self>) {
        let mut connection: Option<MultiplexedConnection> = None;
        loop {
            if connection.is_none() {
                connection = self.connect().await.ok();
            }
            if let Some(live) = &mut connection {
                let groups: RedisResult<StreamInfoGroupsReply> =
                    cmd("XINFO").arg(&["GROUPS", &self.stream]).query_async(live).await;
                match groups {
                    Ok(groups) => {
                        let own = groups.groups.into_iter().find(|group| group.name == self.group);
                        let number =
                            |number: Option<usize>| number.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
                        self.lag.store(number(own.as_ref().and_then(|group| group.lag)), Ordering::Relaxed);
                        self.pending.store(number(own.map(|group| group.pending)), Ordering::Relaxed);
                    }
                    Err(_) => connection = None,
                }
            }
            sleep(WATCH_EVERY).await;
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_server_and_stream() {
        let taken = |url| split(url).expect("a stream");
        assert_eq!(taken("redis://h:1/events"), ("redis://h:1", "events".into()));
        assert_eq!(taken("rediss://u:p@h:1/3/events"), ("rediss://u:p@h:1/3", "events".into()));
        for wrong in ["redis://h:1", "redis://h:1/", "redis:///events"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
