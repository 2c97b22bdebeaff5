//! TensorBoard event files: scalars over steps, as `tensorboard --logdir` reads them.
//!
//! A file is a sequence of TFRecords (length, its checksum, bytes, their checksum) of `Event` messages; both formats
//! are TensorFlow's (`tensorflow/core/lib/io/record_writer.h`, `tensorflow/core/util/event.proto`).

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use prost::Message;

/// Writes scalars to one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// A new file in `directory`, which is created if need be. Files of earlier runs stay: TensorBoard joins them.
    pub fn create(directory: &Path) -> Result<Self, (PathBuf, std::io::Error)> {
        std::fs::create_dir_all(directory).map_err(|error| (directory.to_owned(), error))?;
        // TensorBoard takes any file with "tfevents" in its name, and reads them in the order of their names.
        let nanos = now().as_nanos();
        let name = format!("events.out.tfevents.{:010}.{:09}.sesrec", nanos / 1_000_000_000, nanos % 1_000_000_000);
        let path = directory.join(name);
        let file = File::create_new(&path).map_err(|error| (path.clone(), error))?;
        let mut writer = Self { file: BufWriter::new(file), path: path.clone() };
        let version = Event { file_version: Some("brain.Event:2".into()), ..Event::at(0) };
        writer.write(&version).and_then(|()| writer.file.flush()).map_err(|error| (path, error))?;
        Ok(writer)
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The values of some curves at a step; on disk when this returns, so that they can be watched.
    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> std::io::Result<()> {
        let values = values.iter().map(|(tag, value)| Value { tag: tag.clone(), simple_value: Some(*value as f32) });
        let summary = Summary { value: values.collect() };
        self.write(&Event { summary: Some(summary), ..Event::at(step) })?;
        self.file.flush()
    }

    fn write(&mut self, event: &Event) -> std::io::Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_checksum(&length).to_le_bytes())?;
        self.file.write_all(&data)?;
        self.file.write_all(&masked_checksum(&data).to_le_bytes())
    }
}

/// CRC-32C, rotated and offset: a checksum of data that contains checksums would otherwise be weak.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

impl Event {
    fn at(step: u64) -> Self {
        Self { wall_time: now().as_secs_f64(), step: step as i64, file_version: None, summary: None }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_known_record() {
        // The length field of TensorFlow's first record ("brain.Event:2", 24 bytes) as found in any event file.
        assert_eq!(masked_checksum(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn records_can_be_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&directory.path().join("deep/er")).unwrap();
        writer.scalars(7, &[("loss/total".into(), 0.5), ("learning_rate".into(), 1e-3)]).unwrap();
        let bytes = std::fs::read(writer.path()).unwrap();
        let (mut rest, mut events) = (&bytes[..], vec![]);
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_checksum(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_checksum(data).to_le_bytes());
            events.push(Event::decode(data).unwrap());
            rest = &rest[16 + length..];
        }
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!(events[1].step, 7);
        let values = &events[1].summary.as_ref().unwrap().value;
        assert_eq!((values[0].tag.as_str(), values[0].simple_value), ("loss/total", Some(0.5)));
        assert_eq!((values[1].tag.as_str(), values[1].simple_value), ("learning_rate", Some(1e-3)));
    }
}
