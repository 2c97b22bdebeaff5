//! The metrics as text, for scrapers of both kinds.

use prometheus_client::encoding::text;

use super::{Metrics, logging};

impl Metrics {
    /// OpenMetrics 1.0 text.
    pub fn encode(&self) -> String {
        self.log_dropped(logging::dropped_lines());
        self.read_history_cache();
        let mut text = String::with_capacity(32 * 1024);
        text::encode(&mut text, &self.inner().registry).expect("writing to a string does not fail");
        text
    }

    /// Prometheus text 0.0.4, for scrapers that don't ask for OpenMetrics: there a counter's metadata carry `_total`.
    pub fn encode_prometheus(&self) -> String {
        let open = self.encode();
        let mut text = String::with_capacity(open.len() + 1024);
        let mut lines = open.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                let counter = lines.peek().is_some_and(|next| next.ends_with(" counter"));
                let suffix = if counter { "_total" } else { "" };
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            } else if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
                text.push_str(&format!("# TYPE {name}_total counter\n"));
            } else if line != "# EOF" {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classic_text_names_counters_in_full() {
        let metrics = Metrics::new();
        metrics.cold_start();
        let text = metrics.encode_prometheus();
        assert!(
            text.contains("# TYPE sesrec_rank_cold_starts_total counter\nsesrec_rank_cold_starts_total 1\n"),
            "{text}"
        );
        assert!(text.contains("# HELP sesrec_rank_cold_starts_total Ranks of users"));
        assert!(text.contains("# TYPE sesrec_request_duration_seconds histogram"));
        assert!(!text.contains("EOF"));
    }
}
