//! Synthetic logs hold what is planted in them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use sesrec::data::{
    Dataset, Existing, Progress, Split, Target,
    synthetic::{self, SyntheticOptions},
};

use crate::fixtures::*;

fn synthesize(dir: &Path, options: SyntheticOptions) -> synthetic::Summary {
    synthetic::write(&options, dir).unwrap()
}

const SMALL: SyntheticOptions = SyntheticOptions {
    users: 600,
    items: 1_500,
    seed: 3,
    clicks_per_user: 24.0,
    existing: Existing::Refuse,
    progress: Progress::Hidden,
};

#[test]
fn synthetic_logs_follow_from_their_seed() {
    let dir = tempfile::tempdir().unwrap();
    let files = |name: &str, options| {
        synthesize(&dir.path().join(name), options);
        [REC, SRC, ITEMS, USERS, synthetic::TRUTH_FILE].map(|file| fs::read(dir.path().join(name).join(file)).unwrap())
    };
    let small = SyntheticOptions { users: 50, ..SMALL };
    let (first, second) = (files("a", small), files("b", small));
    assert!(first == second);
    assert!(first != files("c", SyntheticOptions { seed: 4, ..small }));
    let message = synthetic::write(&small, &dir.path().join("a")).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    synthesize(&dir.path().join("a"), SyntheticOptions { existing: Existing::Replace, ..small });
    for wrong in [
        SyntheticOptions { users: 0, ..small },
        SyntheticOptions { items: 99, ..small },
        SyntheticOptions { clicks_per_user: f64::NAN, ..small },
    ] {
        assert!(synthetic::write(&wrong, &dir.path().join("d")).is_err(), "{wrong:?}");
    }
    // The smallest world still has a topic for every interest.
    synthesize(&dir.path().join("tiny"), SyntheticOptions { items: 100, users: 20, ..small });
    import(&dir.path().join("tiny"));
}

#[test]
fn synthetic_searches_have_the_paper_s_proportions() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let summary = synthesize(&logs, SyntheticOptions { users: 3_000, ..SMALL });
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    let near = |value: f64, expected: f64| (value - expected).abs() < 0.02;
    assert!(near(share(summary.spontaneous, summary.searches), 0.57), "{summary:?}");
    assert!(near(share(summary.dissimilar, summary.spontaneous), 0.23), "{summary:?}");
    assert!(near(share(summary.searches, summary.clicks), 0.5), "{summary:?}");

    let imported = import(&logs);
    assert_eq!(imported.report.bad_rows, 0);
    let statistics = imported.dataset.statistics;
    assert_eq!((statistics.users, statistics.items), (3_000, 1_500));
    assert_eq!((statistics.actions_recommendation, statistics.actions_search), (summary.clicks, summary.searches));
    assert_eq!(imported.report.unclicked_recommendations, summary.unclicked);

    // The truth covers every action, and its own words agree with the summary.
    let mut truth = csv::Reader::from_path(logs.join(synthetic::TRUTH_FILE)).unwrap();
    let mut events: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for row in truth.records() {
        let row = row.unwrap();
        *events.entry((row[1].into(), row[5].into(), row[6].into())).or_default() += 1;
    }
    let count = |event: &str, label: &str, origin: &str| {
        let all = |wanted: &str, found: &String| wanted.is_empty() || wanted == found;
        let counts = events.iter().filter(|((e, l, o), _)| all(event, e) && all(label, l) && all(origin, o));
        counts.map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(count("search", "", ""), summary.searches);
    assert_eq!(count("search", "", "spontaneous"), summary.spontaneous);
    assert_eq!(count("search", "dissimilar", "spontaneous"), summary.dissimilar);
    assert_eq!(count("search", "dissimilar", "passive"), 0, "recommendation set them off");
    assert_eq!(count("recommendation", "", ""), summary.clicks);
    for (label, at_least) in [("similar", 0.5), ("dissimilar", 0.1), ("none", 0.05)] {
        assert!(share(count("recommendation", label, ""), summary.clicks) > at_least, "{label}: {events:?}");
    }
}

/// Mean reciprocal rank of the test items among 99 others, by a score without any learning.
fn reciprocal_rank(dataset: &Dataset, score: impl Fn(Target, u32) -> f64) -> f64 {
    let targets = dataset.targets(Split::Test);
    let items = dataset.catalogue.items.rows() as u32;
    let ranks = targets.iter().map(|&target| {
        let clicked = score(target, dataset.item(target));
        // Spread over the catalogue, other ones for each user; ties count against the clicked item.
        let others = (0..99u32).map(|n| 1 + (n * 15_485_863 + target.user * 7_919) % (items - 1));
        let better = others.filter(|&other| other != dataset.item(target) && score(target, other) >= clicked).count();
        1.0 / (1.0 + better as f64)
    });
    ranks.sum::<f64>() / targets.len() as f64
}

#[test]
fn synthetic_clicks_follow_from_both_histories() {
    let dir = tempfile::tempdir().unwrap();
    synthesize(&dir.path().join("logs"), SMALL);
    let dataset = import(&dir.path().join("logs")).dataset;
    let topics = attribute(&dataset, "items", "category2");
    let topic = |item: u32| topics[item as usize];
    let popularity: Vec<f64> = dataset.popularity().iter().map(|&clicks| (1.0 + f64::from(clicks)).ln()).collect();
    // What a user was last interested in, fading with each event.
    let (mut clicked, mut searched) = (HashMap::new(), HashMap::new());
    for target in dataset.targets(Split::Test) {
        let history = &dataset.recommendations(target.user)[..target.position as usize];
        for (age, &item) in history.iter().rev().enumerate() {
            *clicked.entry((target, topic(item))).or_insert(0.0) += (-(age as f64) / 6.0).exp();
        }
        let searches = &dataset.searches(target.user)[..dataset.searches_before(target)];
        for (age, search) in searches.iter().rev().enumerate() {
            *searched.entry((target, topic(search.clicks[0]))).or_insert(0.0) += (-(age as f64) / 2.0).exp();
        }
    }
    let known =
        |map: &HashMap<(Target, u32), f64>, target, item| map.get(&(target, topic(item))).copied().unwrap_or(0.0);
    let by_popularity = reciprocal_rank(&dataset, |_, item| popularity[item as usize]);
    let by_clicks =
        reciprocal_rank(&dataset, |target, item| 0.3 * popularity[item as usize] + 2.0 * known(&clicked, target, item));
    let by_both = reciprocal_rank(&dataset, |target, item| {
        0.3 * popularity[item as usize] + 2.0 * known(&clicked, target, item) + 2.0 * known(&searched, target, item)
    });
    println!("reciprocal rank: popularity {by_popularity:.3}, clicks {by_clicks:.3}, and searches {by_both:.3}");
    assert!(by_clicks > 1.8 * by_popularity, "{by_clicks} {by_popularity}");
    assert!(by_both > by_clicks + 0.015, "{by_both} {by_clicks}");
}
