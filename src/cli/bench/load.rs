//! Open-loop load: callers that send whether or not they were answered.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{runtime::Handle, sync::Semaphore};
use tonic::Code;

use crate::proto::v1::Timings;

/// How much load, for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Requests per second, of all callers together.
    pub(super) rate: f64,
    /// Who send independently of each other, each at even distances.
    pub(super) callers: usize,
    /// How long is measured.
    pub(super) duration: Duration,
    /// How long load runs before that.
    pub(super) warm_up: Duration,
    /// Requests in flight; one that would exceed it is not sent, and counted.
    pub(super) max_in_flight: usize,
}

/// What came of one request.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) code: Code,
    pub(super) timings: Option<Timings>,
}

/// What came of all of them.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Requests per second, as asked for.
    pub(super) rate: f64,
    /// How long was measured.
    pub(super) duration: Duration,
    /// Microseconds from the intended departure to the answer; answers with code OK.
    pub(super) latency: Histogram<u64>,
    /// By code other than OK.
    pub(super) errors: BTreeMap<String, u64>,
    /// Requests that were due while too many were in flight.
    pub(super) not_sent: u64,
    /// Sums over answers, as the server tells.
    pub(super) stages: Timings,
}

impl Measured {
    fn new(load: &Load) -> Self {
        Self {
            rate: load.rate,
            duration: load.duration,
            latency: latency_histogram(),
            errors: BTreeMap::new(),
            not_sent: 0,
            stages: Timings::default(),
        }
    }

    fn record(&mut self, latency: Duration, answer: Answer) {
        if answer.code == Code::Ok {
            self.latency.saturating_record(latency.as_micros() as u64);
        } else {
            *self.errors.entry(format!("{:?}", answer.code)).or_default() += 1;
        }
        if let Some(timings) = answer.timings {
            let sum = &mut self.stages;
            sum.queue_us += timings.queue_us;
            sum.history_us += timings.history_us;
            sum.encode_us += timings.encode_us;
            sum.score_us += timings.score_us;
            sum.other_us += timings.other_us;
            sum.total_us += timings.total_us;
        }
    }

    /// Answers with code OK per second.
    pub(super) fn achieved(&self) -> f64 {
        self.latency.len() as f64 / self.duration.as_secs_f64()
    }

    /// Whether every request was answered, the 99th percentile within `bound`.
    pub(super) fn sustained(&self, bound: Duration) -> bool {
        self.errors.is_empty()
            && self.not_sent == 0
            && !self.latency.is_empty()
            && u128::from(self.latency.value_at_quantile(0.99)) <= bound.as_micros()
    }
}

/// One microsecond to a minute, three digits.
pub(super) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are valid")
}

/// Sends `request(n)` for n = 0, 1, … and waits for the last answer.
///
/// A thread keeps the time: the runtime's timers round to a millisecond, which is as long as an answer takes. `request`
/// is called by it, so that what takes time belongs into the future that it returns.
pub(super) async fn open_loop<F, R>(load: Load, request: F) -> Measured
where
    F: Fn(u64) -> R + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let measured = Arc::new(Mutex::new(Measured::new(&load)));
    let permits = Arc::new(Semaphore::new(load.max_in_flight));
    let pacer = {
        let (measured, permits, runtime) = (measured.clone(), permits.clone(), Handle::current());
        move || {
            let start = Instant::now();
            let measure_from = start + load.warm_up;
            let end = measure_from + load.duration;
            for (n, departure) in (0..).zip(departures(load.rate, load.callers)) {
                let due = start + departure;
                if due >= end {
                    break;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let counts = due >= measure_from;
                let Ok(permit) = permits.clone().try_acquire_owned() else {
                    lock(&measured).not_sent += u64::from(counts);
                    continue;
                };
                let (answer, measured) = (request(n), measured.clone());
                runtime.spawn(async move {
                    let answer = answer.await;
                    if counts {
                        lock(&measured).record(due.elapsed(), answer);
                    }
                    drop(permit);
                });
            }
        }
    };
    tokio::task::spawn_blocking(pacer).await.expect("the pacer does not panic");
    let all = u32::try_from(load.max_in_flight).expect("fewer than 2^32 requests are in flight");
    let _all_answered = permits.acquire_many(all).await.expect("the semaphore is never closed");
    lock(&measured).clone()
}

/// When requests leave: every caller begins at a moment of its own, so that some leave together and others alone, as
/// they would from callers that don't know of each other.
fn departures(rate: f64, callers: usize) -> impl Iterator<Item = Duration> {
    let period = callers as f64 / rate;
    let mut rng = ChaCha8Rng::seed_from_u64(callers as u64);
    let mut beginnings: Vec<f64> = (0..callers).map(|_| rng.random_range(0.0..period)).collect();
    beginnings.sort_by(f64::total_cmp);
    (0u64..).flat_map(move |round| {
        let round = round as f64 * period;
        beginnings.clone().into_iter().map(move |beginning| Duration::from_secs_f64(round + beginning))
    })
}

fn lock(measured: &Mutex<Measured>) -> std::sync::MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Searches the highest sustained rate: doubles until a run fails, then halves the interval until it is within 5 %.
/// Returns every run, the best sustained one last, if there is one.
pub(super) async fn find_max<R>(first: f64, bound: Duration, mut run: impl FnMut(f64) -> R) -> Vec<Measured>
where
    R: Future<Output = Measured>,
{
    let mut runs = vec![];
    let mut best: Option<Measured> = None;
    let mut failed: Option<f64> = None;
    let mut rate = first;
    loop {
        let measured = run(rate).await;
        let sustained = measured.sustained(bound);
        tracing::debug!(rate, sustained, "probed");
        runs.push(measured.clone());
        if sustained {
            best = Some(measured);
        } else {
            failed = Some(rate);
        }
        rate = match (&best, failed) {
            (None, Some(failed)) if failed < first / 64.0 => break,
            (None, Some(failed)) => failed / 2.0,
            (Some(best), None) => best.rate * 2.0,
            (Some(best), Some(failed)) if failed / best.rate <= 1.05 => break,
            (Some(best), Some(failed)) => (best.rate * failed).sqrt(),
            (None, None) => unreachable!("a run is sustained or not"),
        };
    }
    if let Some(best) = best {
        runs.retain(|run| run.rate != best.rate);
        runs.push(best);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rate: f64) -> Load {
        let (duration, warm_up) = (Duration::from_millis(300), Duration::from_millis(100));
        Load { rate, callers: 1, duration, warm_up, max_in_flight: 64 }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stall_shows_in_every_request_that_it_held_up() {
        // The server answers nothing for the first 250 ms, then at once: an open loop sees waits of up to 250 ms in
        // the half of its requests that fell into the stall.
        let start = Instant::now();
        let stall = Duration::from_millis(250);
        // Room for all of them: a busy machine may send late, and then many at once.
        let load = Load { max_in_flight: 1000, ..load(200.0) };
        let measured = open_loop(load, move |_| async move {
            tokio::time::sleep(stall.saturating_sub(start.elapsed())).await;
            Answer { code: Code::Ok, timings: None }
        })
        .await;
        assert!(measured.latency.len() >= 59, "{}", measured.latency.len());
        assert!(measured.latency.max() > 120_000, "{}", measured.latency.max());
        let slow = measured.latency.len() - measured.latency.count_between(0, 20_000);
        assert!(slow > 15, "{slow}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn errors_and_unsent_requests_are_counted() {
        let refused = Answer { code: Code::ResourceExhausted, timings: None };
        let measured = open_loop(load(100.0), move |_| std::future::ready(refused.clone())).await;
        assert_eq!(measured.errors.keys().collect::<Vec<_>>(), ["ResourceExhausted"]);
        assert!(!measured.sustained(Duration::from_secs(1)));
        let one = Load { max_in_flight: 1, ..load(100.0) };
        let measured = open_loop(one, move |_| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Answer { code: Code::Ok, timings: None }
        })
        .await;
        assert!(measured.not_sent > 10, "{}", measured.not_sent);
    }

    #[test]
    fn callers_keep_their_distance_and_the_rate() {
        let (callers, rate) = (64, 1000.0);
        let departures: Vec<Duration> = departures(rate, callers).take(10 * callers).collect();
        assert!(departures.is_sorted());
        for (n, departure) in departures.iter().enumerate().skip(callers) {
            let distance = (*departure - departures[n - callers]).as_secs_f64();
            assert!((distance - 0.064).abs() < 1e-6, "{distance}");
        }
        assert!(departures[10 * callers - 1] < Duration::from_millis(640));
        let gaps: Vec<Duration> = departures.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*least < Duration::from_micros(200) && *most > Duration::from_millis(3), "{least:?} {most:?}");
    }

    #[tokio::test]
    async fn the_highest_rate_is_found() {
        let server = |rate: f64| async move {
            let mut measured = Measured::new(&load(rate));
            measured.latency.record(if rate > 333.0 { 90_000 } else { 1_000 }).unwrap();
            measured
        };
        for first in [10.0, 100.0, 5_000.0] {
            let runs = find_max(first, Duration::from_millis(50), server).await;
            let best = runs.last().unwrap().rate;
            assert!((316.0..=333.0).contains(&best), "{first}: {best}");
        }
    }
}
