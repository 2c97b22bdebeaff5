//! Memory of the process, of the device that computes, and of the copies of histories: read when somebody scrapes.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::Metrics;
use crate::nn::DeviceMemory;

type Read = Box<dyn Fn() -> Option<DeviceMemory> + Send + Sync>;
/// Bytes and entries.
type ReadCache = Box<dyn Fn() -> Option<(u64, usize)> + Send + Sync>;

/// Where the figures come from.
#[derive(Clone, Default)]
pub(super) struct Memory {
    device: Arc<Mutex<Option<(String, Read)>>>,
    histories: Arc<Mutex<Option<ReadCache>>>,
}

impl Metrics {
    /// The device that computes, by its label, and how its memory is read; `None` where it has no memory of its own.
    pub fn device_memory(&self, device: String, read: impl Fn() -> Option<DeviceMemory> + Send + Sync + 'static) {
        let memory = &self.inner().memory;
        *memory.device.lock().unwrap_or_else(PoisonError::into_inner) = Some((device, Box::new(read)));
    }

    /// How bytes and entries of the cache of histories are read; `None` once it is gone. Not told with every change:
    /// adding them up locks each of its parts.
    pub(crate) fn history_cache(&self, read: impl Fn() -> Option<(u64, usize)> + Send + Sync + 'static) {
        *self.inner().memory.histories.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(read));
    }

    /// Somebody scrapes.
    pub(super) fn read_history_cache(&self) {
        let histories = self.inner().memory.histories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, entries)) = histories.as_ref().and_then(|read| read()) {
            self.history_cache_size(bytes, entries);
        }
    }
}

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = resident_bytes(&status) {
            let help = "Memory of this process. Near the container's limit: lower --user-cache-bytes, --history-cache-bytes or --item-table-bytes, or give it more. It needs room for two models while one replaces another.";
            let metric = encoder.encode_descriptor("process_resident_memory_bytes", help, None, MetricType::Gauge)?;
            gauge(bytes).encode(metric)?;
        }
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, memory)) = device.as_ref().and_then(|(name, read)| Some((name, read()?))) else {
            return Ok(());
        };
        let used = "Memory in use on the device that computes, by everybody on it. Near sesrec_device_memory_bytes: lower --batch-budget or --user-cache-bytes; a model swap needs room for two.";
        let total = "Memory of the device that computes: what sesrec_device_memory_used_bytes is a share of.";
        for (family, help, bytes) in [
            ("sesrec_device_memory_used_bytes", used, memory.used),
            ("sesrec_device_memory_bytes", total, memory.total),
        ] {
            let mut metric = encoder.encode_descriptor(family, help, None, MetricType::Gauge)?;
            gauge(bytes).encode(metric.encode_family(&[("device", name.as_str())])?)?;
        }
        Ok(())
    }
}

pub(super) fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Of a process by its `/proc/PID/status`, which is there on Linux only.
pub(crate) fn resident_bytes(status: &str) -> Option<u64> {
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, series: &str) -> Option<u64> {
        let text = metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.map(|value| value.parse().unwrap())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_grows_with_what_it_holds() {
        let (metrics, series) = (Metrics::new(), "process_resident_memory_bytes");
        let before = value(&metrics, series).unwrap();
        let held = vec![1_u8; 320 << 20];
        // Other tests allocate and free meanwhile.
        let grown = value(&metrics, series).unwrap().saturating_sub(before);
        assert!(grown > 64 << 20, "{grown} bytes more with {} held", held.len());
    }

    #[test]
    fn a_device_without_memory_of_its_own_has_no_figures() {
        let metrics = Metrics::new();
        let used = r#"sesrec_device_memory_used_bytes{device="cuda:0"}"#;
        assert_eq!(value(&metrics, used), None);
        metrics.device_memory("cpu".into(), || None);
        assert!(!metrics.encode().contains("sesrec_device_memory"));
        metrics.device_memory("cuda:0".into(), || Some(DeviceMemory { used: 3 << 30, total: 80 << 30 }));
        assert_eq!(value(&metrics, used), Some(3 << 30));
        assert_eq!(value(&metrics, r#"sesrec_device_memory_bytes{device="cuda:0"}"#), Some(80 << 30));
    }
}
