//! File descriptors: how many this process has open, how many it may have, and how many of these are for callers.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::MetricType,
};

use super::memory::gauge;

/// What connections of callers leave to the rest: the store (64 tables of the embedded one), the metrics port (64
/// connections), journals, bundle, log.
const KEPT: u64 = 256;

/// Raises the limit of open files as far as this process may by itself, and returns how many connections callers may
/// have then: `wanted`, or what the limit leaves room for. Were callers to take the last descriptor, neither the store
/// nor the metrics port could open theirs, and who looks for the cause would find the port silent.
pub fn connections(wanted: usize) -> usize {
    let needed = (wanted as u64).saturating_add(KEPT);
    let Some(limit) = raise_limit(needed) else { return wanted };
    let affordable = affordable(limit, wanted);
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            connections = affordable,
            "the limit of open files is too low for --max-connections: callers get fewer connections; raise it \
             (ulimit -n, LimitNOFILE=), or lower --max-connections"
        );
    }
    affordable
}

fn affordable(limit: u64, wanted: usize) -> usize {
    let left = usize::try_from(limit.saturating_sub(KEPT)).unwrap_or(usize::MAX);
    wanted.min(left.max(1))
}

/// Systems start programs with a soft limit of 1024 for the sake of old ones, and let each raise its own to the hard
/// one. Returns what holds now; `None` is no limit.
#[cfg(unix)]
fn raise_limit(needed: u64) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = |to| setrlimit(Resource::Nofile, Rlimit { current: to, maximum }).is_ok();
    // macOS says that its hard limit is none, and takes only numbers for the soft one.
    if current != maximum && !raised(maximum) && current.is_some_and(|current| current < needed) {
        raised(Some(needed));
    }
    getrlimit(Resource::Nofile).current
}

/// There is no such limit.
#[cfg(not(unix))]
fn raise_limit(_: u64) -> Option<u64> {
    None
}

/// Read when somebody scrapes, where there is `/proc`: on Linux.
#[derive(Debug)]
pub(super) struct Descriptors;

impl Collector for Descriptors {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let open = "File descriptors that this process has open: a connection is one. Near process_max_fds: see sesrec_connections for how many are callers'; the rest is the store's.";
        let most = "File descriptors that this process may have open: the soft limit, which a server raises to the hard one when it starts. Below --max-connections and 256 more: raise it (ulimit -n, LimitNOFILE=).";
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        for (family, help, count) in
            [("process_open_fds", open, open_now()), ("process_max_fds", most, soft_limit(&limits))]
        {
            if let Some(count) = count {
                let metric = encoder.encode_descriptor(family, help, None, MetricType::Gauge)?;
                gauge(count).encode(metric)?;
            }
        }
        Ok(())
    }
}

/// The one that lists them aside.
fn open_now() -> Option<u64> {
    let listed = std::fs::read_dir("/proc/self/fd").ok()?;
    Some((listed.count() as u64).saturating_sub(1))
}

/// Of a process by its `/proc/PID/limits`; `None`, too, where it is unlimited.
fn soft_limit(limits: &str) -> Option<u64> {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limit.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_what_the_limit_leaves() {
        assert_eq!(affordable(1_048_576, 10_000), 10_000);
        assert_eq!(affordable(10_256, 10_000), 10_000);
        assert_eq!(affordable(10_255, 10_000), 9_999);
        assert_eq!(affordable(1024, 10_000), 768);
        assert_eq!(affordable(64, 10_000), 1, "a server without any would serve nobody");
    }

    #[test]
    fn limits_are_read_as_linux_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             127208               127208               processes \n\
                      Max open files            1024                 1048576              files     \n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files            unlimited            unlimited            files\n"), None);
        assert_eq!(soft_limit(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_are_counted() {
        let value = |series: &str| {
            let text = super::super::Metrics::new().encode();
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
            value.expect("a series").parse::<u64>().unwrap()
        };
        let before = value("process_open_fds");
        let held: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files meanwhile.
        let more = value("process_open_fds").saturating_sub(before);
        assert!(more > 100, "{more} more with {} held", held.len());
        assert!(value("process_max_fds") >= value("process_open_fds"));
    }
}
