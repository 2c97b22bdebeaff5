//! The rank log: a sample of the answered Ranks as NDJSON, so that later events can be joined with what was shown
//! (`sesrec evaluate --rank-log`).
//!
//! A thread of its own writes; before it is a bounded queue, and what finds it full is dropped and counted: serving
//! never waits for a disk. Files rotate by size: FILE is the newest, FILE.1 the one before it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Metrics, RankLogOutcome};

/// Answers that wait to be written.
const QUEUE: usize = 1024;
/// How long a line may stay in memory.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// One line: an answered Rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankLogLine {
    /// When it was answered.
    pub time: jiff::Timestamp,
    /// Who asked.
    pub user_id: String,
    /// Which model answered.
    pub model_version: String,
    /// The answer's items, in its order.
    pub items: Vec<String>,
    /// Their scores.
    pub scores: Vec<f32>,
    /// Candidates that the catalogue does not have.
    pub unknown_items: usize,
    /// The model saw no event.
    pub cold_start: bool,
    /// Answered from an old copy of the history.
    pub stale_history: bool,
}

/// Where the log goes and how much of it.
#[derive(Debug, Clone, clap::Args)]
pub struct RankLogOptions {
    /// Write a sample of the answered Ranks to this file, as NDJSON: user, items, scores, model version. Joined with
    /// later events by `sesrec evaluate --rank-log`. It has what users were shown: keep it as you keep your event logs.
    #[arg(long, value_name = "FILE")]
    rank_log: Option<PathBuf>,
    /// Share of Ranks that are written.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE", value_parser = crate::units::parse_share)]
    rank_log_sample: f64,
    /// Size at which a new file is begun.
    #[arg(long, default_value = "256MiB", value_parser = crate::units::parse_bytes, value_name = "BYTES")]
    rank_log_bytes: u64,
    /// Full files that are kept: FILE.1 is the newest of them.
    #[arg(long, default_value_t = 8, value_name = "N")]
    rank_log_files: u32,
}

/// A handle on the log; the last one that goes writes what is left.
#[derive(Debug, Clone)]
pub struct RankLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sample: f64,
    metrics: Metrics,
    /// Taken at the end, which is how the thread learns of it.
    sender: Mutex<Option<SyncSender<RankLogLine>>>,
    writer: Option<JoinHandle<()>>,
}

impl Default for RankLogOptions {
    /// No log.
    fn default() -> Self {
        Self { rank_log: None, rank_log_sample: 0.01, rank_log_bytes: 256 << 20, rank_log_files: 8 }
    }
}

impl RankLogOptions {
    /// Opens the log, if one is wanted.
    ///
    /// # Errors
    /// If the file can't be opened, or the thread that writes it can't be started.
    pub fn open(&self, metrics: &Metrics) -> io::Result<Option<RankLog>> {
        let Some(path) = &self.rank_log else { return Ok(None) };
        let files = Files::open(path, self.rank_log_bytes.max(1), self.rank_log_files)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let (sender, receiver) = sync_channel(QUEUE);
        let counted = metrics.clone();
        let writer =
            std::thread::Builder::new().name("rank-log".into()).spawn(move || write(files, &receiver, &counted))?;
        let shared = Shared {
            sample: self.rank_log_sample,
            metrics: metrics.clone(),
            sender: Mutex::new(Some(sender)),
            writer: Some(writer),
        };
        Ok(Some(RankLog(Arc::new(shared))))
    }
}

impl RankLog {
    /// Takes an answer in, if the dice say so. `line` is made only then.
    pub fn offer(&self, line: impl FnOnce() -> RankLogLine) {
        if rand::random::<f64>() >= self.0.sample {
            return;
        }
        let line = line();
        let sender = self.0.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = match &*sender {
            Some(sender) => sender.try_send(line).is_ok(),
            None => false,
        };
        if !queued {
            self.0.metrics.rank_log(RankLogOutcome::Dropped, 1);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.sender.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the rank log's thread panicked");
        }
    }
}

/// Writes until all handles are gone. A disk that fails loses lines, never requests.
fn write(mut files: Files, lines: &Receiver<RankLogLine>, metrics: &Metrics) {
    let mut failing = false;
    // Lines that are in memory only, and when the oldest of them has to be in the file.
    let (mut buffered, mut flush_at) = (0, None::<Instant>);
    loop {
        let patience = flush_at.map_or(FLUSH_EVERY, |at| at.saturating_duration_since(Instant::now()));
        let appended = match lines.recv_timeout(patience) {
            Ok(line) => Some(files.append(&line)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match appended {
            Some(Ok(())) => {
                buffered += 1;
                flush_at.get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
            }
            Some(Err(_)) => metrics.rank_log(RankLogOutcome::Failed, 1),
            None => {}
        }
        let flushed = flush_at.filter(|&at| at <= Instant::now()).map(|_| files.file.flush());
        match flushed {
            Some(Ok(())) => {
                metrics.rank_log(RankLogOutcome::Written, std::mem::take(&mut buffered));
                flush_at = None;
            }
            // They stay in memory; the file may take them yet.
            Some(Err(_)) => flush_at = Some(Instant::now() + FLUSH_EVERY),
            None => {}
        }
        // Once per outage, not once per line; what only went to memory doesn't end one.
        match (appended, flushed) {
            (Some(Err(error)), _) | (_, Some(Err(error))) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, path = %files.path.display(), "the rank log can't be written");
                }
            }
            (_, Some(Ok(()))) => failing = false,
            (_, None) => {}
        }
    }
    match files.file.flush() {
        Ok(()) => metrics.rank_log(RankLogOutcome::Written, buffered),
        Err(error) => {
            metrics.rank_log(RankLogOutcome::Failed, buffered);
            tracing::warn!(%error, path = %files.path.display(), "the rank log's end was not written");
        }
    }
}

struct Files {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    max_bytes: u64,
    kept: u32,
}

impl Files {
    fn open(path: &Path, max_bytes: u64, kept: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), bytes, max_bytes, kept })
    }

    fn append(&mut self, line: &RankLogLine) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let length = text.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(&text)?;
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let numbered = |n: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        // It is gone where it was renamed before and a new one could not be opened: nothing moves a second time.
        if self.path.exists() {
            for n in (1..self.kept).rev().filter(|&n| numbered(n).exists()) {
                std::fs::rename(numbered(n), numbered(n + 1))?;
            }
            match self.kept {
                0 => std::fs::remove_file(&self.path)?,
                _ => std::fs::rename(&self.path, numbered(1))?,
            }
        }
        *self = Self::open(&self.path, self.max_bytes, self.kept)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: usize) -> RankLogLine {
        RankLogLine {
            time: jiff::Timestamp::UNIX_EPOCH,
            user_id: format!("u{n}"),
            model_version: "v1".into(),
            items: vec!["a".into(), "b".into()],
            scores: vec![0.5, 0.25],
            unknown_items: 0,
            cold_start: false,
            stale_history: false,
        }
    }

    fn options(path: &Path, sample: f64, bytes: u64) -> RankLogOptions {
        RankLogOptions {
            rank_log: Some(path.into()),
            rank_log_sample: sample,
            rank_log_bytes: bytes,
            rank_log_files: 2,
        }
    }

    fn users(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("a file");
        let line = |line: &str| serde_json::from_str::<RankLogLine>(line).expect("a line").user_id;
        text.lines().map(line).collect()
    }

    #[test]
    fn files_rotate_by_size_and_the_oldest_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ranks.ndjson");
        let length = serde_json::to_string(&line(0)).expect("json").len() as u64 + 1;
        let metrics = Metrics::new();
        let log = options(&path, 1.0, 2 * length).open(&metrics).expect("opened").expect("wanted");
        (0..9).for_each(|n| log.offer(|| line(n)));
        drop(log);
        let numbered = |n: usize| directory.path().join(format!("ranks.ndjson.{n}"));
        assert_eq!(users(&path), ["u8"]);
        assert_eq!(users(&numbered(1)), ["u6", "u7"]);
        assert_eq!(users(&numbered(2)), ["u4", "u5"]);
        assert!(!numbered(3).exists());
        assert!(metrics.encode().contains(r#"sesrec_rank_log_total{outcome="written"} 9"#));

        // A later process goes on with the file that is there.
        let log = options(&path, 1.0, 2 * length).open(&metrics).expect("opened").expect("wanted");
        log.offer(|| line(9));
        drop(log);
        assert_eq!(users(&path), ["u8", "u9"]);
    }

    /// A disk that fails in the middle of a rotation doesn't cost a kept file per line from then on.
    #[test]
    fn a_file_that_is_gone_moves_none_of_the_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ranks.ndjson");
        let mut files = Files::open(&path, 1, 2).expect("opened");
        for n in 0..3 {
            files.append(&line(n)).expect("written");
        }
        files.file.flush().expect("written");
        std::fs::remove_file(&path).expect("removed");
        files.append(&line(3)).expect("written");
        drop(files);
        let numbered = |n: usize| directory.path().join(format!("ranks.ndjson.{n}"));
        assert_eq!((users(&path), users(&numbered(1))), (vec!["u3".into()], vec!["u1".into()]));
        assert_eq!(users(&numbered(2)), ["u0"]);
    }

    #[test]
    fn a_line_reaches_the_file_though_others_follow() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ranks.ndjson");
        let log = options(&path, 1.0, u64::MAX).open(&Metrics::new()).expect("opened").expect("wanted");
        let patience = Instant::now() + 20 * FLUSH_EVERY;
        for n in 0.. {
            log.offer(|| line(n));
            std::thread::sleep(FLUSH_EVERY / 10);
            if std::fs::metadata(&path).expect("a file").len() > 0 {
                break;
            }
            assert!(Instant::now() < patience, "{n} lines, none in the file");
        }
    }

    /// What is in memory only has not been written.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_counted() {
        let metrics = Metrics::new();
        let log = options(Path::new("/dev/full"), 1.0, u64::MAX).open(&metrics).expect("opened").expect("wanted");
        (0..3).for_each(|n| log.offer(|| line(n)));
        drop(log);
        let text = metrics.encode();
        assert!(text.contains(r#"sesrec_rank_log_total{outcome="failed"} 3"#), "{text}");
        assert!(text.contains(r#"sesrec_rank_log_total{outcome="written"} 0"#), "{text}");
    }

    #[test]
    fn a_sample_is_a_sample() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ranks.ndjson");
        let metrics = Metrics::new();
        let log = options(&path, 0.1, u64::MAX).open(&metrics).expect("opened").expect("wanted");
        let mut made = 0;
        for n in 0..5000 {
            log.offer(|| {
                made += 1;
                line(n)
            });
        }
        drop(log);
        assert!((350..650).contains(&made), "{made} of 5000");
        let all_queued = metrics.encode().contains(r#"sesrec_rank_log_total{outcome="dropped"} 0"#);
        assert!(!all_queued || users(&path).len() == made, "what is not written is counted");
        assert!(
            options(&path.join("below"), 0.1, 1).open(&metrics).is_err(),
            "a path that can't be, told at the start"
        );
    }
}
