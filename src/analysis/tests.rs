//! Measures by hand, and each analysis on data whose answer is known.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{measures::mean, *};
use crate::data::{
    Attribute, Catalogue, Dataset,
    fixture::{User, dataset},
};

fn counts(pairs: &[(u32, f64)]) -> HashMap<u32, f64> {
    pairs.iter().copied().collect()
}

#[test]
fn jensen_shannon_by_hand() {
    let (a, b) = (counts(&[(1, 3.0), (2, 1.0)]), counts(&[(1, 1.0), (2, 1.0)]));
    // P = (3/4, 1/4), Q = (1/2, 1/2), mixture (5/8, 3/8): H(M) - (H(P) + H(Q)) / 2.
    let entropy = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
    let expected = entropy(0.625) - (entropy(0.75) + 1.0) / 2.0;
    assert!((jensen_shannon(&a, &b).unwrap() - expected).abs() < 1e-12);
    assert_eq!(jensen_shannon(&a, &b), jensen_shannon(&b, &a));
    assert_eq!(jensen_shannon(&a, &counts(&[(1, 6.0), (2, 2.0)])), Some(0.0));
    assert_eq!(jensen_shannon(&a, &counts(&[(7, 2.0)])), Some(1.0));
    // Hash maps of the same counts have orders of their own.
    let sevenths = |first: u32| (first..first + 7).map(|key| (key, 1.0)).collect::<Vec<_>>();
    let apart = || jensen_shannon(&counts(&sevenths(0)), &counts(&sevenths(7))).unwrap();
    let once = apart();
    assert!((once - 1.0).abs() < 1e-12 && (0..20).all(|_| apart() == once));
    assert_eq!(jensen_shannon(&a, &counts(&[])), None);
    assert_eq!(jensen_shannon(&counts(&[(1, 0.0)]), &a), None);
}

#[test]
fn roc_auc_by_hand_with_ties() {
    let positive = |score| (score, true);
    let negative = |score| (score, false);
    assert_eq!(roc_auc([positive(0.9), positive(0.8), negative(0.1)]), Some(1.0));
    assert_eq!(roc_auc([positive(0.1), negative(0.9)]), Some(0.0));
    assert_eq!(roc_auc([positive(0.5), negative(0.5), negative(0.5)]), Some(0.5));
    // Pairs: 0.4 beats 0.2, ties with 0.4, loses to 0.6; 0.6 beats two and ties with one: (1.5 + 2.5) / 6.
    let scored = [positive(0.4), positive(0.6), negative(0.2), negative(0.4), negative(0.6)];
    assert!((roc_auc(scored).unwrap() - 4.0 / 6.0).abs() < 1e-12);
    assert_eq!(roc_auc([positive(0.4), positive(0.5)]), None);
    assert_eq!(roc_auc([negative(0.4)]), None);
    assert_eq!(roc_auc([]), None);
}

#[test]
fn separation_compares_each_query_with_its_own_stranger() {
    // The second query is far from everything: over all pairs at once, half of the comparisons would be lost.
    let cosines = Cosines { clicked: vec![0.9, 0.2, 0.5, 0.1], strangers: vec![0.8, 0.1, 0.5, 0.4] };
    assert_eq!(cosines.separation(), Some(2.5 / 4.0));
    assert_eq!(Cosines { clicked: vec![], strangers: vec![] }.separation(), None);
}

#[test]
fn quartiles_and_whiskers_by_hand() {
    let values: Vec<f64> = (1..=9).map(f64::from).collect();
    assert_eq!((quantile(&values, 0.0), quantile(&values, 0.5), quantile(&values, 1.0)), (1.0, 5.0, 9.0));
    assert_eq!(quantile(&[1.0, 2.0], 0.25), 1.25);
    let summary = box_summary(values).unwrap();
    assert_eq!(summary.values(), [1.0, 3.0, 5.0, 7.0, 9.0]);
    // 100 lies beyond 7.5 + 1.5 · 4.5: the whisker ends at the last value before that.
    let summary = box_summary(vec![9.0, 2.0, 4.0, 6.0, 8.0, 100.0, 1.0, 3.0, 5.0, 7.0]).unwrap();
    assert_eq!(summary.values(), [1.0, 3.25, 5.5, 7.75, 9.0]);
    // All values in the whiskers' direction lie beyond: no whisker.
    let summary = box_summary(vec![0.0, 0.0, 0.0, 0.0, 10.0]).unwrap();
    assert_eq!(summary.values(), [0.0; 5]);
    assert_eq!(box_summary(vec![]), None);
    assert_eq!((mean([1.0, 2.0, 6.0]), mean([])), (3.0, 0.0));
}

/// Items 1 to 6 with two attributes: a coarse one, and a finer one that item 6 lacks.
fn with_categories(mut dataset: Dataset) -> Dataset {
    let attribute = |name: &str, rows, values: &[u32]| Attribute { name: name.into(), rows, values: values.to_vec() };
    let mut catalogue = Catalogue::clone(&dataset.catalogue);
    catalogue.items.attributes =
        vec![attribute("coarse", 3, &[0, 1, 1, 1, 2, 2, 2]), attribute("fine", 4, &[0, 1, 1, 2, 2, 3, 0])];
    dataset.catalogue = Arc::new(catalogue);
    dataset
}

#[test]
fn the_most_specific_category_is_chosen_and_a_wrong_name_told_what_exists() {
    let data = with_categories(dataset(6, 1, []));
    let chosen = Categories::choose(&data.catalogue, None).unwrap();
    assert_eq!((chosen.name(), chosen.count), ("fine", 3));
    assert_eq!((chosen.of(3), chosen.of(6), chosen.of(99)), (Some(2), None, None));
    let coarse = Categories::choose(&data.catalogue, Some("coarse")).unwrap();
    assert_eq!((coarse.count, coarse.of(6)), (2, Some(2)));
    let error = Categories::choose(&data.catalogue, Some("colour")).unwrap_err().to_string();
    assert!(error.contains("colour") && error.contains("coarse (2 values), fine (3 values)"), "{error}");
    let bare = dataset(6, 1, []);
    let error = Categories::choose(&bare.catalogue, None).unwrap_err().to_string();
    assert!(error.contains("items have no attribute"), "{error}");
}

#[test]
fn searches_are_similar_to_the_week_before() {
    const DAY: i64 = 24 * 3600 * 1000;
    let user = User {
        // Fine categories 1, 2, 3 at days 0, 8, 9.
        recommendations: vec![(0, 1), (8 * DAY, 3), (9 * DAY, 5)],
        searches: vec![
            (-DAY, 1, vec![1]),        // before any recommendation: dissimilar
            (7 * DAY, 1, vec![2]),     // category 1, exactly seven days later: similar
            (7 * DAY + 1, 1, vec![2]), // a millisecond more: dissimilar, and nothing else in the window
            (8 * DAY, 1, vec![5, 4]),  // 4 is of category 2, clicked at that very time: similar
            (8 * DAY + 1, 1, vec![5]), // 5 comes a day later: dissimilar
            (9 * DAY + 1, 1, vec![6]), // no category: unknown
            (9 * DAY + 2, 1, vec![]),  // no click: unknown
        ],
    };
    let data = with_categories(dataset(6, 1, [user]));
    let categories = Categories::choose(&data.catalogue, None).unwrap();
    let shares = SearchShares::of(&data, categories, &["source0".into()]);
    let expected = SearchGroup { similar: 2, dissimilar: 3, unknown: 2, without_recommendation: 2 };
    assert_eq!((shares.all, shares.passive), (expected, Some(expected)));
    assert_eq!(shares.spontaneous, Some(SearchGroup::default()));
    assert!(shares.table().markdown().contains("60.0 %"), "{}", shares.table().markdown());
    let untold = SearchShares::of(&data, categories, &["RELATED_SEARCH".into()]);
    assert_eq!((untold.passive, untold.spontaneous), (None, None));
    assert!(untold.note(categories, &["RELATED_SEARCH".into()]).contains("don't tell"));
}

#[test]
fn pairs_are_distinct_and_strangers_are_the_same_items() {
    let user = |searches| User { recommendations: vec![(1, 1)], searches };
    let data = dataset(
        9,
        3,
        [user(vec![(1, 1, vec![1, 2]), (2, 1, vec![2, 3])]), user(vec![(1, 2, vec![2]), (5, 3, vec![])])],
    );
    let options = AlignmentOptions { max_pairs: 10, seed: 3 };
    let pairs = Pairs::of(&data, options).unwrap();
    let mut found: Vec<(u32, u32)> = pairs.queries.iter().copied().zip(pairs.clicked.iter().copied()).collect();
    found.sort_unstable();
    assert_eq!(found, [(1, 1), (1, 2), (1, 3), (2, 2)]);
    let sorted = |mut items: Vec<u32>| {
        items.sort_unstable();
        items
    };
    assert_eq!(sorted(pairs.strangers.clone()), sorted(pairs.clicked.clone()));
    assert_eq!(Pairs::of(&data, options).unwrap(), pairs, "the same seed chooses the same");
    assert_eq!(Pairs::of(&data, AlignmentOptions { max_pairs: 2, seed: 3 }).unwrap().queries.len(), 2);
    assert!(matches!(Pairs::of(&dataset(9, 3, []), options), Err(AnalysisError::Nothing(_))));
}
