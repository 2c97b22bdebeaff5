//! What goes into one batch.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc, time::Duration};

use super::{LoadedModel, RankJob, queue::Entry, user_cache::UserCache};
use crate::{
    data::UserFeatures,
    domain::{HistoryVersion, UserId},
    model::UserState,
    telemetry::BatchSize,
};

/// How large a batch may be, and how long it may gather.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    /// Requests.
    pub(super) requests: usize,
    /// Padded history events to encode plus candidates to score.
    pub(super) budget: usize,
    /// How long the first may wait for others while the device is idle.
    pub(super) delay: Duration,
    /// Into how many batches what waits is divided, as far as there are requests: threads of a CPU are all as fast, and
    /// one that took all would leave the others idle. A GPU is best with as much as fits.
    pub(super) shares: NonZeroUsize,
}

/// Requests of one model that are computed together.
pub(super) struct Batch {
    pub(super) model: Arc<LoadedModel>,
    pub(super) members: Vec<Member>,
    /// The members whose features are encoded, one for each distinct user.
    pub(super) to_encode: Vec<usize>,
    /// Which of `to_encode` a cacheable user is.
    users: HashMap<(UserId, HistoryVersion), usize>,
    longest: Lengths,
    events: usize,
    candidates: usize,
    lookups: Lookups,
}

/// A request of a batch.
pub(super) struct Member {
    pub(super) entry: Entry,
    pub(super) user: User,
}

/// Where a member's encoded user comes from.
pub(super) enum User {
    /// The cache.
    Cached(UserState),
    /// This batch: an index into [`Batch::to_encode`].
    Encode(usize),
}

/// Whether a request joins a batch.
pub(super) enum Verdict {
    /// It fits.
    Take(User),
    /// It is for another model.
    OtherModel,
    /// It does not fit any more.
    Full,
}

/// Longest histories of a batch.
#[derive(Debug, Clone, Copy, Default)]
struct Lengths {
    recommendations: usize,
    searches: usize,
}

/// Cacheable users that were found, and not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lookups {
    pub(super) hits: usize,
    pub(super) misses: usize,
}

impl Batch {
    /// An empty batch for a model.
    pub(super) fn new(model: Arc<LoadedModel>) -> Self {
        Self {
            model,
            members: vec![],
            to_encode: vec![],
            users: HashMap::new(),
            longest: Lengths::default(),
            events: 0,
            candidates: 0,
            lookups: Lookups::default(),
        }
    }

    /// Whether a request joins. An empty batch takes anything: a request above the budget runs alone.
    pub(super) fn consider(&self, job: &RankJob, limits: &BatchLimits, cache: &UserCache) -> Verdict {
        if !Arc::ptr_eq(&self.model, &job.model) {
            return Verdict::OtherModel;
        }
        if self.members.len() >= limits.requests {
            return Verdict::Full;
        }
        let user = self.find(job, cache);
        let joins = matches!(user, User::Encode(n) if n == self.to_encode.len());
        let encoded = self.to_encode.len() + usize::from(joins);
        let longest = if joins { self.longest.with(&job.features) } else { self.longest };
        let cost = encoded * longest.total() + self.candidates + job.items.len();
        if cost > limits.budget && !self.members.is_empty() { Verdict::Full } else { Verdict::Take(user) }
    }

    /// Adds a request that was considered last.
    pub(super) fn push(&mut self, entry: Entry, user: User) {
        let job = &entry.job;
        let number = self.members.len();
        match user {
            User::Encode(n) if n == self.to_encode.len() => {
                self.longest = self.longest.with(&job.features);
                self.events += job.features.recommendations.len() + job.features.searches.len();
                self.to_encode.push(number);
                if let Some(key) = &job.cache_key {
                    self.users.insert(key.clone(), n);
                    self.lookups.misses += 1;
                }
            }
            // Encoded once for several requests of this batch: as good as cached.
            User::Encode(_) | User::Cached(_) => self.lookups.hits += 1,
        }
        self.candidates += job.items.len();
        self.members.push(Member { entry, user });
    }

    /// For the metrics.
    pub(super) fn size(&self) -> BatchSize {
        BatchSize {
            requests: self.members.len(),
            encoded_users: self.to_encode.len(),
            candidates: self.candidates,
            tokens: self.events,
            padding: self.to_encode.len() * self.longest.total() - self.events,
        }
    }

    /// For the metrics.
    pub(super) fn lookups(&self) -> Lookups {
        self.lookups
    }

    fn find(&self, job: &RankJob, cache: &UserCache) -> User {
        if let Some(key) = &job.cache_key {
            if let Some(&n) = self.users.get(key) {
                return User::Encode(n);
            }
            if let Some(state) = cache.get(&key.0, key.1, &self.model.info.version) {
                return User::Cached(state);
            }
        }
        User::Encode(self.to_encode.len())
    }
}

impl Lengths {
    fn with(self, features: &UserFeatures) -> Self {
        Self {
            recommendations: self.recommendations.max(features.recommendations.len()),
            searches: self.searches.max(features.searches.len()),
        }
    }

    fn total(self) -> usize {
        self.recommendations + self.searches
    }
}
