//! Whether this replica can answer: what readiness follows.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::{
    data::{UserFeatures, UserRow},
    domain::Deadline,
    engine::{EngineError, Explain, RankJob},
    telemetry::{Readiness, StoreOperation},
};

/// From so many failed calls of the model in a row on, it is asked whether it works at all.
const SUSPICIOUS_FAILURES: u32 = 3;

/// How often the log says that this replica still is not ready: the probe asks every second.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Asks the store whether it works, and the model where it seems not to: a replica whose device is broken would answer
/// every Rank at once with an error, and balancers by load would like it for that.
pub(super) struct Probe {
    pub(super) shared: Arc<Shared>,
    pub(super) readiness: Readiness,
    pub(super) interval: Duration,
    /// How long the device may be at one batch.
    pub(super) device_timeout: Duration,
}

impl Probe {
    pub(super) async fn run(self, leaving: CancellationToken) {
        let probing = async {
            let mut news = News::default();
            loop {
                let patience = Deadline::after(self.shared.options.timeouts.store);
                let ping = self.shared.store.ping(patience);
                // Nobody's deadline: a store that is too slow for it is too slow.
                let answer =
                    self.shared.store_call_until(StoreOperation::Ping, patience, Deadline::after(Duration::MAX), ping);
                let answer = answer.await;
                self.shared.store_away.store(answer.is_err(), Ordering::Relaxed);
                let works = match answer {
                    Ok(()) => self.model_works().await,
                    Err(error) => Err(format!("{} store: {error}", self.shared.store.kind())),
                };
                let told = news.worth_telling(&works, Instant::now());
                match works {
                    Ok(()) => {
                        if told {
                            tracing::info!(model = %self.shared.slot.live().info.version, "ready");
                        }
                        self.readiness.ready();
                    }
                    Err(reason) => {
                        if told {
                            tracing::warn!(reason, "not ready");
                        }
                        self.readiness.not_ready(reason);
                    }
                }
                sleep(self.interval).await;
            }
        };
        let _: Option<()> = leaving.run_until_cancelled(probing).await;
        self.readiness.not_ready("draining");
    }

    /// Whether the device gets on. After calls that failed in a row, which may have been the callers' own: ranks one
    /// item for nobody.
    async fn model_works(&self) -> Result<(), String> {
        let Shared { engine, slot, options, .. } = &*self.shared;
        if engine.stalled() > self.device_timeout {
            return Err(format!("the device has been at one batch for more than {:?}", self.device_timeout));
        }
        if engine.failures_in_a_row() < SUSPICIOUS_FAILURES {
            return Ok(());
        }
        let model = slot.live();
        let job = RankJob {
            features: Arc::new(UserFeatures {
                user: UserRow::Mean,
                recommendations: vec![],
                searches: vec![],
                as_of: None,
            }),
            cache_key: None,
            items: vec![model.featurizer.catalogue().items.first_row],
            top_k: 0,
            explain: Explain::No,
            deadline: Deadline::after(options.timeouts.store),
            model,
        };
        match engine.rank(job).await {
            Err(EngineError::Model(error)) => Err(format!("the model fails: {error}")),
            // Busy is not broken, where others were answered meanwhile.
            Err(error) if engine.failures_in_a_row() >= SUSPICIOUS_FAILURES => {
                Err(format!("the model has failed and not answered since: {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// What the log has been told of this replica's readiness.
#[derive(Debug, Default)]
struct News {
    last: Option<(Result<(), String>, Instant)>,
}

impl News {
    /// What is new; and, now and then, that it still is not ready.
    fn worth_telling(&mut self, state: &Result<(), String>, now: Instant) -> bool {
        let known = self.last.as_ref().is_some_and(|(told, at)| {
            told == state && (told.is_ok() || now.saturating_duration_since(*at) < TOLD_EVERY)
        });
        if !known {
            self.last = Some((state.clone(), now));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_what_changes_and_once_a_minute_what_stays_wrong() {
        let (mut news, start) = (News::default(), Instant::now());
        let away = |reason: &str| Err(reason.to_owned());
        let mut told =
            |second, state: Result<(), String>| news.worth_telling(&state, start + Duration::from_secs(second));
        assert!(told(0, Ok(())), "the first time, too");
        assert!((1..1000).all(|second| !told(second, Ok(()))), "what is well needs no second line");
        assert!(told(1000, away("no answer")));
        assert!((1001..1060).all(|second| !told(second, away("no answer"))));
        assert!(told(1060, away("no answer")), "a minute later");
        assert!(!told(1061, away("no answer")));
        assert!(told(1062, away("wrong password")), "another reason");
        assert!(told(1063, Ok(())));
        assert!(told(1064, away("wrong password")), "again");
    }
}
