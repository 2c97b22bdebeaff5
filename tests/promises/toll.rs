//! What faults cost: a row of the README's table.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use sesrec::{
    domain::{Deadline, UserId},
    history::{self, HistoryOptions, Loaded, RedisOptions},
    proto::v1::Outcome,
};
use tokio_stream::StreamExt;

use crate::{
    appender::{Sent, id, user},
    redis_server::PATIENCE,
    server::Server,
};

/// How many of the events a server does not know: sent again, each has to be a duplicate.
pub async fn missing(server: &Server, mut events: Vec<Sent>) -> usize {
    let (mut missing, started) = (0, Instant::now());
    while !events.is_empty() {
        // After a fault it may be ready before each of its connections to the store is.
        assert!(started.elapsed() < PATIENCE, "{} events are not answered", events.len());
        let Ok(answers) = server.client().append_events(tokio_stream::iter(events.clone())).await else { continue };
        let answers: Vec<_> = answers.into_inner().map_while(Result::ok).collect().await;
        missing += answers.iter().filter(|answer| answer.outcome() != Outcome::Duplicate).count();
        events.drain(..answers.len());
    }
    missing
}

/// What came of one kind of fault.
#[derive(Default)]
pub struct Toll {
    pub acknowledged: usize,
    pub lost: usize,
    pub twice: usize,
    pub out_of_order: usize,
    /// One for each time.
    pub recoveries: Vec<Duration>,
}

impl Toll {
    /// Compares what a store holds, past any server, with all that was acknowledged.
    pub async fn audit(&mut self, url: &str, acknowledged: impl Iterator<Item = &Sent>) {
        let mut by_user: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for event in acknowledged {
            assert!(by_user.entry(user(event)).or_default().insert(id(event)), "{} was acknowledged twice", id(event));
        }
        let url = url.parse().unwrap();
        let store = history::open(&url, HistoryOptions::default(), RedisOptions::default()).await.unwrap();
        for (name, expected) in by_user {
            let name = UserId::new(name).unwrap();
            let load = store.load(&name, None, Deadline::after(PATIENCE));
            let Loaded::History(view) = load.await.unwrap() else {
                panic!("nothing was known, and Redis takes writes")
            };
            let events = &view.recommendation_events;
            let stored: BTreeSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
            self.lost += expected.difference(&stored).count();
            self.twice += events.len() - stored.len();
            let in_order = events.is_sorted_by(|a, b| (a.time, &a.event_id) < (b.time, &b.event_id));
            self.out_of_order += usize::from(!in_order);
        }
        store.close().await;
    }

    pub fn print_and_judge(mut self, fault: &str) {
        self.recoveries.sort();
        let times = self.recoveries.len();
        let (median, longest) = (self.recoveries[times / 2], self.recoveries[times - 1]);
        println!(
            "fault | times | acknowledged | lost | duplicated | time to recover, median / longest\n\
             {fault} | {times} | {} | {} | {} | {:.1} / {:.1} s",
            self.acknowledged,
            self.lost,
            self.twice,
            median.as_secs_f64(),
            longest.as_secs_f64()
        );
        assert!(self.acknowledged >= times, "hardly anything was acknowledged before the faults");
        assert_eq!((self.lost, self.twice, self.out_of_order), (0, 0, 0), "{fault}: lost, twice, out of order");
    }
}
