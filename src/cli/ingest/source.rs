//! Where ingested events come from, and how far they got.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt, BufReader},
};

use super::stream::StreamSource;
use crate::{
    cli::shell::quoted,
    data::{BYTE_ORDER_MARK, NoText},
    files::write_whole,
};

/// The longest line that is read, in bytes: a valid event has at most about 140 kB.
pub(super) const MAX_LINE_BYTES: usize = 1 << 20;

/// Numbered lines of a file or of standard input.
pub(super) struct Source {
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    /// What is read of the next line: a read that is given up in the middle loses nothing.
    partial: Vec<u8>,
    partial_bytes: usize,
    line: u64,
    bytes: u64,
    /// The file's size; unknown for standard input.
    pub(super) size: Option<u64>,
}

/// A line of the input.
pub(super) enum Line {
    /// With its text.
    Text(Vec<u8>),
    /// The last one of a file, without an end: whoever writes it may be in its middle.
    Open(Vec<u8>),
    /// Longer than any event can be.
    TooLong,
    /// No event at all, and why.
    Unusable(String),
}

/// Where events come from.
pub(super) enum Input {
    /// Lines of a file or of standard input.
    Lines(Source),
    /// Entries of a Redis Stream.
    Stream(StreamSource),
}

/// Where an event was.
#[derive(Clone)]
pub(super) enum Position {
    /// Its line, from 1.
    Line(u64),
    /// Its entry's id.
    Entry(String),
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(id) => write!(f, "entry {id}"),
        }
    }
}

impl Input {
    /// The next event; `None` at the end. May be dropped and called again.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<(Position, Line)>> {
        Ok(match self {
            Self::Lines(source) => source.next().await?.map(|(line, text)| (Position::Line(line), text)),
            Self::Stream(stream) => stream.next().await?.map(|(id, text)| (Position::Entry(id), text)),
        })
    }

    /// An event has reached its end. (How far lines are settled follows from their order.)
    pub(super) fn settled(&self, position: &Position) {
        if let (Self::Stream(stream), Position::Entry(id)) = (self, position) {
            stream.settled(id);
        }
    }

    /// How much is read, where that can be told.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Lines(source) => source.bytes(),
            Self::Stream(_) => 0,
        }
    }

    /// The whole's size, where known.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Lines(source) => source.size,
            Self::Stream(_) => None,
        }
    }

    /// How far behind, where that can be told.
    pub(super) fn status(&self) -> Option<String> {
        match self {
            Self::Lines(_) => None,
            Self::Stream(stream) => Some(stream.status()),
        }
    }

    /// The end: nothing more is read, what is settled is acknowledged.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::Stream(stream) => stream.close().await,
        }
    }
}

impl Source {
    /// Opens a file, or standard input for `-`, and skips the first `after` lines.
    pub(super) async fn open(path: &Path, after: u64) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let (reader, size): (Box<dyn AsyncBufRead + Send + Unpin>, _) = if path.as_os_str() == "-" {
            (Box::new(BufReader::new(tokio::io::stdin())), None)
        } else {
            let file = File::open(path).await.with_context(named)?;
            let metadata = file.metadata().await.with_context(named)?;
            let mut reader = BufReader::with_capacity(256 << 10, file);
            // Of anything but a file there may be nothing to read yet.
            if metadata.is_file() {
                check_text(reader.fill_buf().await.with_context(named)?, Some(path)).with_context(named)?;
            }
            (Box::new(reader), Some(metadata.len()))
        };
        let mut source = Self { reader, partial: vec![], partial_bytes: 0, line: 0, bytes: 0, size };
        while source.line < after {
            if source.next().await?.is_none() {
                bail!(
                    "{} ends at line {}, but the checkpoint is at line {after}: is it the same file?",
                    named(),
                    source.line
                );
            }
        }
        Ok(source)
    }

    /// The next line and its number, from 1. May be dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<(u64, Line)>> {
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() && self.partial_bytes == 0 {
                return Ok(None);
            }
            if self.bytes == 0 {
                check_text(buffer, None)?;
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let ended = end.is_some() || buffer.is_empty();
            let taken = end.map_or(buffer.len(), |end| end + 1);
            self.partial_bytes += taken;
            if self.partial_bytes <= MAX_LINE_BYTES {
                self.partial.extend_from_slice(&buffer[..taken]);
            }
            self.reader.consume(taken);
            self.bytes += taken as u64;
            if ended {
                self.line += 1;
                let mut text = std::mem::take(&mut self.partial);
                if self.line == 1 && text.starts_with(BYTE_ORDER_MARK.as_bytes()) {
                    text.drain(..BYTE_ORDER_MARK.len());
                }
                let length = std::mem::take(&mut self.partial_bytes);
                let line = match end {
                    _ if length > MAX_LINE_BYTES => Line::TooLong,
                    None if self.size.is_some() => Line::Open(text),
                    _ => Line::Text(text),
                };
                return Ok(Some((self.line, line)));
            }
        }
    }

    /// How much has been read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Refuses by its first bytes what holds no lines of JSON: each of them would be INVALID.
fn check_text(beginning: &[u8], file: Option<&Path>) -> io::Result<()> {
    let advice = match NoText::of(beginning) {
        None => return Ok(()),
        Some(NoText::Gzip) => {
            let file = file.map_or_else(|| "FILE".to_owned(), |path| quoted(&path.display().to_string()));
            format!("is gzip: decompress it on the way with `zcat {file} | sesrec ingest -`")
        }
        Some(NoText::Utf16) => "is UTF-16: save it as UTF-8".to_owned(),
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, advice))
}

/// How far an input is settled; a small JSON file, replaced atomically.
pub(super) struct Checkpoint {
    path: PathBuf,
    state: State,
}

#[derive(Serialize, Deserialize)]
struct State {
    /// Which input, as it was named.
    input: String,
    /// How it begins: logs are rotated, and another file gets its name. Checkpoints of before don't say.
    #[serde(default)]
    begins: Option<Beginning>,
    /// The last line that is settled with all lines before it.
    line: u64,
}

/// So many bytes of a file's beginning, and their checksum.
#[derive(PartialEq, Serialize, Deserialize)]
struct Beginning {
    bytes: u64,
    blake3: String,
}

impl Beginning {
    /// Enough for the ids and times of several events.
    const BYTES: u64 = 4096;

    /// Of the first `bytes`, or of all where there are fewer.
    fn of(file: &Path, bytes: u64) -> io::Result<Self> {
        let mut start = vec![];
        std::fs::File::open(file)?.take(bytes).read_to_end(&mut start)?;
        Ok(Self { bytes: start.len() as u64, blake3: blake3::hash(&start).to_string() })
    }
}

impl Checkpoint {
    /// Reads a checkpoint of `file`; a missing one is one at the beginning.
    pub(super) fn read(path: &Path, file: &Path) -> anyhow::Result<Self> {
        let input = file.display().to_string();
        let beginning = |bytes| Beginning::of(file, bytes).with_context(|| input.clone());
        let mut state = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{}: not a checkpoint; delete it to begin anew", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                State { input: input.clone(), begins: None, line: 0 }
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        // One path has many names: ./events is events.
        let absolute = |name: &str| std::path::absolute(name).with_context(|| name.to_owned());
        if absolute(&state.input)? != absolute(&input)? {
            bail!(
                "{} is a checkpoint of {}, not of {input}; use one checkpoint per input",
                path.display(),
                state.input
            );
        }
        if let Some(begins) = &state.begins
            && beginning(begins.bytes)? != *begins
        {
            bail!(
                "{input} is another file than {} was made of: it begins otherwise; delete the checkpoint to send all of it",
                path.display()
            );
        }
        // It may have grown since.
        state.begins = Some(beginning(Beginning::BYTES)?);
        Ok(Self { path: path.to_owned(), state })
    }

    pub(super) fn line(&self) -> u64 {
        self.state.line
    }

    /// Notes that everything up to `line` is settled.
    pub(super) fn write(&mut self, line: u64) -> anyhow::Result<()> {
        self.state.line = line;
        write_whole(&self.path, &serde_json::to_vec(&self.state)?).with_context(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_numbered_bounded_and_resumable() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events.ndjson");
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        std::fs::write(&path, format!("a\n\n{long}\nlast")).expect("written");

        let mut source = Source::open(&path, 0).await.expect("opened");
        let mut lines = vec![];
        while let Some((number, line)) = source.next().await.expect("read") {
            lines.push((
                number,
                match line {
                    Line::Text(text) => String::from_utf8(text).expect("text"),
                    Line::Open(text) => format!("open: {}", String::from_utf8(text).expect("text")),
                    Line::TooLong => "too long".into(),
                    Line::Unusable(reason) => reason,
                },
            ));
        }
        let expected = [(1, "a\n"), (2, "\n"), (3, "too long"), (4, "open: last")];
        assert_eq!(lines, expected.map(|(n, text)| (n, text.to_owned())));
        assert_eq!(Some(source.bytes()), source.size);

        let mut resumed = Source::open(&path, 3).await.expect("opened");
        assert!(matches!(resumed.next().await, Ok(Some((4, Line::Open(_))))));
        assert!(Source::open(&path, 5).await.is_err(), "a checkpoint beyond the end");
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_passed_over_and_what_is_no_text_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("my events.ndjson");
        std::fs::write(&path, "\u{feff}{}\n\u{feff}\n").expect("written");
        let mut source = Source::open(&path, 0).await.expect("opened");
        let mut texts = vec![];
        while let Some((_, Line::Text(text))) = source.next().await.expect("read") {
            texts.push(String::from_utf8(text).expect("text"));
        }
        assert_eq!(texts, ["{}\n", "\u{feff}\n"], "the mark of a file is at its beginning");
        assert_eq!(Some(source.bytes()), source.size);

        for (bytes, advice) in
            [(&b"\x1f\x8b\x08\0"[..], "my events.ndjson' | sesrec ingest -"), (b"\xff\xfe{\0", "UTF-8")]
        {
            std::fs::write(&path, bytes).expect("written");
            let error = Source::open(&path, 0).await.err().expect("no text");
            assert!(format!("{error:#}").contains(advice), "{error:#}");
        }
        // As from standard input, whose first bytes come when they come.
        let reader = Box::new(std::io::Cursor::new(b"\x1f\x8b\x08".to_vec()));
        let mut piped = Source { reader, partial: vec![], partial_bytes: 0, line: 0, bytes: 0, size: None };
        let error = piped.next().await.err().expect("no text").to_string();
        assert!(error.contains("zcat FILE | sesrec ingest -"), "{error}");
    }

    #[test]
    fn checkpoints_belong_to_their_input() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, events) = (directory.path().join("progress"), directory.path().join("a.ndjson"));
        let write = |text: String| std::fs::write(&events, text).expect("written");
        write("first\n".into());
        let mut checkpoint = Checkpoint::read(&path, &events).expect("a new one");
        assert_eq!(checkpoint.line(), 0);
        checkpoint.write(1).expect("written");
        assert_eq!(Checkpoint::read(&path, &events).expect("there").line(), 1);
        let otherwise = directory.path().join(".").join("a.ndjson");
        assert_eq!(Checkpoint::read(&path, &otherwise).expect("the same").line(), 1);
        let other = directory.path().join("b.ndjson");
        std::fs::copy(&events, &other).expect("copied");
        assert!(Checkpoint::read(&path, &other).is_err());
        // A file grows; one that begins otherwise is another.
        write(format!("first\n{}", "more\n".repeat(5000)));
        let mut grown = Checkpoint::read(&path, &events).expect("the same file");
        grown.write(2000).expect("written");
        write(format!("second\n{}", "more\n".repeat(5000)));
        let error = Checkpoint::read(&path, &events).err().expect("another file").to_string();
        assert!(error.contains("another file"), "{error}");
    }
}
