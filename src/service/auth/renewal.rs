//! Certificates that are renewed while they are served: whoever renews them needn't restart anything.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};

use super::Certificates;
use crate::telemetry::{Metrics, Reloaded};

/// Between two looks at the files. Tokens are read on SIGHUP only: half a file of those may be one that counts, while
/// half a certificate is none.
const EVERY: Duration = Duration::from_secs(60);

const LOOKS_A_DAY: u64 = 24 * 60;

/// Before which the end of a certificate is told: an outage with a date, and time to do something about it.
const NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Shows when the certificate ends, and looks at the files every minute and when it is asked to, for ever. What is to
/// be said of the end is said about once a day.
pub(in super::super) async fn follow(certificates: Arc<Certificates>, metrics: Metrics) {
    let mut looks = interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 0u64.. {
        tokio::select! {
            _ = looks.tick() => {}
            () = certificates.asked_to_look() => {}
        }
        if look > 0 {
            renew(&certificates, &metrics).await;
        }
        if look % LOOKS_A_DAY == 0 {
            tell_the_end(&certificates, &metrics);
        }
    }
}

/// Looks at the files. What can't be used changes nothing, and is told and counted.
async fn renew(certificates: &Arc<Certificates>, metrics: &Metrics) {
    let reading = certificates.clone();
    // Reading a file may take long where it lies on a network: not on the async threads.
    let read = tokio::task::spawn_blocking(move || reading.reload()).await;
    let error = match read {
        Ok(Ok(false)) => return,
        Ok(Ok(true)) => {
            tracing::info!(end = certificates.end().map(tracing::field::display), "certificate read anew");
            return tell_the_end(certificates, metrics);
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    metrics.reload_failed(Reloaded::Certificate);
    tracing::error!(error, "the certificate stays as it was");
}

fn tell_the_end(certificates: &Certificates, metrics: &Metrics) {
    let end = certificates.end();
    metrics.certificate_ends(end);
    if let Some(warning) = warning_of(end, Timestamp::now()) {
        tracing::warn!(end = end.map(tracing::field::display), "{warning}");
    }
}

/// What is to be said of the end of the server's certificate.
fn warning_of(end: Option<Timestamp>, now: Timestamp) -> Option<&'static str> {
    match end {
        None => Some("it can't be told when the certificate of --tls-certificate ends"),
        Some(end) if end <= now => {
            Some("the certificate of --tls-certificate has ended: callers refuse it; renew the file, it is read anew")
        }
        Some(end) if end.duration_since(now) < NOTICE => Some(
            "the certificate of --tls-certificate ends soon: callers refuse it then; renew the file, it is read anew",
        ),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::{
        super::fixture::{Place, certificate},
        *,
    };

    #[tokio::test(start_paused = true)]
    async fn a_renewed_file_is_served_within_a_minute() {
        let key = KeyPair::generate().unwrap();
        let place = Place::with(&certificate(&key, 2033), &key);
        let (certificates, metrics) = (Arc::new(Certificates::open(place.files()).unwrap()), Metrics::new());
        let _following =
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(follow(certificates.clone(), metrics.clone())));
        let value = |name: &str| {
            let text = metrics.encode();
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<i64>().ok()).expect("the series")
        };
        let end = || value("sesrec_tls_certificate_expiry_timestamp_seconds");
        let failures = || value("sesrec_reload_failures_total{what=\"certificate\"}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((end(), failures()), (1_988_150_400, 0));
        place.put("", &key);
        tokio::time::sleep(EVERY).await;
        assert_eq!((end(), failures()), (1_988_150_400, 1), "none that could be served");
        place.put(&certificate(&key, 2034), &key);
        tokio::time::sleep(EVERY).await;
        assert_eq!((end(), failures()), (2_019_686_400, 1));
        place.put(&certificate(&key, 2033), &key);
        certificates.look();
        tokio::time::sleep(EVERY / 60).await;
        assert_eq!((end(), failures()), (1_988_150_400, 1), "at once");
    }

    #[test]
    fn the_end_of_a_certificate_is_told_two_weeks_before() {
        let end = Timestamp::from_second(2_000_000_000).unwrap();
        let warning = |days_before: i64| warning_of(Some(end), end - SignedDuration::from_hours(24 * days_before));
        assert_eq!(warning(15), None);
        assert!(warning(13).unwrap().contains("ends soon"));
        assert!(warning(0).unwrap().contains("has ended"));
        assert!(warning(-400).unwrap().contains("has ended"));
        assert!(warning_of(None, end).unwrap().contains("can't be told"));
    }
}
