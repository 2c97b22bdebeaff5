//! Appends and answers, recorded, and whether any answer contradicts them.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use pbjson_types::Timestamp;
use sesrec::{
    domain::HistoryVersion,
    history::HistoryToken,
    proto::v1::{self, event::Payload},
};

use crate::bundle::{READ, item};

/// All users' events.
pub struct Checker {
    users: Vec<Mutex<Vec<Acknowledged>>>,
    start_seconds: i64,
    next: AtomicU64,
    violations: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Acknowledged {
    event: v1::Event,
    version: HistoryVersion,
}

/// What an answer says of a history.
pub struct Seen {
    pub token: String,
    /// Ids of the recommendations that the model sees.
    pub events: Vec<String>,
    pub freshness: Freshness,
}

/// Whether the store was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Current,
    Stale,
}

impl Seen {
    pub fn has(&self, event_id: &str) -> bool {
        self.events.iter().any(|event| event == event_id)
    }
}

/// What was acknowledged before a question was asked.
pub struct Before {
    pub token: String,
    known: Vec<Acknowledged>,
}

pub fn version(token: &str) -> HistoryVersion {
    HistoryToken::decode(token).map_or(HistoryVersion::default(), |token| token.version)
}

impl Checker {
    pub fn new(users: usize) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        Self {
            users: (0..users).map(|_| Mutex::default()).collect(),
            start_seconds: now.cast_signed() - 86_400,
            next: AtomicU64::new(0),
            violations: Mutex::default(),
        }
    }

    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// A new event of a user, later than all before.
    pub fn event(&self, user: usize) -> v1::Event {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (seconds, millis) = (number / 100, number % 100);
        let recommendation = v1::Recommendation { item_id: item(number as usize) };
        v1::Event {
            event_id: format!("e{number}"),
            user_id: format!("user-{user}"),
            time: Some(Timestamp {
                seconds: self.start_seconds + seconds.cast_signed(),
                nanos: i32::try_from(millis).unwrap() * 1_000_000,
            }),
            payload: Some(Payload::Recommendation(recommendation)),
        }
    }

    /// An event has been acknowledged with this token.
    pub fn acknowledged(&self, user: usize, event: v1::Event, token: &str) {
        self.users[user].lock().unwrap().push(Acknowledged { event, version: version(token) });
    }

    /// What is known of a user now, with the token of the newest state; or of an older one.
    pub fn before(&self, user: usize, older: usize) -> Before {
        let mut known = self.users[user].lock().unwrap().clone();
        known.sort_by_key(|event| event.version);
        known.truncate(known.len().saturating_sub(older).max(1));
        let token = known.last().map(|event| HistoryToken::new(event.version).encode()).unwrap_or_default();
        Before { token, known }
    }

    /// Compares an answer with what was acknowledged before its question.
    pub fn check(&self, user: usize, before: &Before, seen: &Seen) {
        if version(&seen.token) < version(&before.token) {
            self.violation(format!("user {user}: {} is older than its token {}", seen.token, before.token));
        }
        // Where the model's view is full, older events have made room.
        let time = |event: &v1::Event| event.time.map(|time| (time.seconds, time.nanos));
        let in_view = |event: &&Acknowledged| seen.has(&event.event.event_id);
        let oldest = before.known.iter().filter(in_view).map(|event| time(&event.event)).min();
        for event in &before.known {
            let made_room = seen.events.len() >= READ && oldest.is_none_or(|oldest| time(&event.event) < oldest);
            if !made_room && !in_view(&event) {
                let id = &event.event.event_id;
                self.violation(format!("user {user}: {id} ({:?}) is not in {:?}", event.version, seen.events));
            }
        }
    }

    pub fn violation(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    /// Every acknowledged event, by user.
    pub fn all(&self) -> Vec<v1::AppendEventRequest> {
        let events = self.users.iter().flat_map(|user| user.lock().unwrap().clone());
        events.map(|known| v1::AppendEventRequest { event: Some(known.event) }).collect()
    }

    pub fn assert_clean(&self) {
        let violations = self.violations.lock().unwrap();
        let some: Vec<_> = violations.iter().take(5).collect();
        assert!(violations.is_empty(), "{} violations, among them {some:#?}", violations.len());
    }
}
