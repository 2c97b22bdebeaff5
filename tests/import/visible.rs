//! What a target sees: never a search at or after its own time, and exactly what a server would have seen.

use std::{collections::HashSet, sync::Arc};

use proptest::prelude::*;
use sesrec::{
    data::{
        Dataset, Existing, Featurizer, HistoryLimits, Split, Target, UserFeatures,
        kuaisar::{self, ImportOptions, UnclickedSearches},
    },
    domain::{History, HistorySearch, ItemId, Query, UserId},
};
use tempfile::TempDir;

use crate::fixtures::*;

/// A recommendation of a generated log.
#[derive(Debug, Clone)]
struct RawClick {
    user: u8,
    item: u8,
    time: u16,
    click: bool,
}

/// A search of a generated log, with its results.
#[derive(Debug, Clone)]
struct RawSearch {
    user: u8,
    time: u16,
    keyword: String,
    source: Option<String>,
    results: Vec<(u8, bool)>,
}

fn raw_click() -> impl Strategy<Value = RawClick> {
    // Few users and times, so that there are histories and ties.
    (0u8..4, 0u8..12, 0u16..30, prop::bool::weighted(0.8)).prop_map(|(user, item, time, click)| RawClick {
        user,
        item,
        time,
        click,
    })
}

fn raw_search() -> impl Strategy<Value = RawSearch> {
    let keyword = prop::sample::select(vec!["[1, 2]", "Red SHOES", "", "ǅ İstanbul", "a-b_c d", "[]", "x x x x"]);
    let source = prop::sample::select(vec![None, Some("TYPED"), Some("RELATED"), Some("TRENDING")]);
    (0u8..4, 0u16..30, keyword, source, prop::collection::vec((0u8..14, any::<bool>()), 1..6)).prop_map(
        |(user, time, keyword, source, results)| RawSearch {
            user,
            time,
            keyword: keyword.into(),
            source: source.map(Into::into),
            results,
        },
    )
}

fn raw_logs(clicks: &[RawClick], searches: &[RawSearch]) -> TempDir {
    let mut rec = "user_id,item_id,timestamp,click\n".to_owned();
    for RawClick { user, item, time, click } in clicks {
        rec += &format!("u{user},i{item},{time},{}\n", u8::from(*click));
    }
    let mut src =
        "user_id,search_session_id,search_session_timestamp,keyword,search_source,item_id,click_cnt\n".to_owned();
    for (id, search) in searches.iter().enumerate() {
        for (item, clicked) in &search.results {
            let RawSearch { user, time, keyword, source, .. } = search;
            let source = source.as_deref().unwrap_or_default();
            src += &format!("u{user},{id},{time},\"{keyword}\",{source},i{item},{}\n", u8::from(*clicked));
        }
    }
    let items = "item_id,item_type,first_level_category_id,second_level_category_id\ni1,A,1,1\ni5,B,2,1\n";
    write_logs(&[(REC, &rec), (SRC, &src), (ITEMS, items), (USERS, "user_id\n")])
}

/// What a server would have stored of a user before `time`: built from the raw log, not by the importer.
fn stored(clicks: &[&RawClick], searches: &[RawSearch], user: u8, time: u16, unclicked: UnclickedSearches) -> History {
    let item = |item: &u8| ItemId::new(&format!("i{item}")).unwrap();
    let mut before: Vec<&RawSearch> = searches.iter().filter(|s| s.user == user && s.time < time).collect();
    before.sort_by_key(|search| search.time);
    let searches = before
        .into_iter()
        .filter_map(|search| {
            let mut clicked_item_ids: Vec<ItemId> = vec![];
            for (result, _) in search.results.iter().filter(|(_, clicked)| *clicked) {
                if !clicked_item_ids.contains(&item(result)) {
                    clicked_item_ids.push(item(result));
                }
            }
            if clicked_item_ids.is_empty() {
                match unclicked {
                    UnclickedSearches::FirstShown => clicked_item_ids.push(item(&search.results[0].0)),
                    UnclickedSearches::Keep => {}
                    UnclickedSearches::Drop => return None,
                }
            }
            let source = search.source.as_deref().map(Arc::from);
            let query = Query::Text(search.keyword.as_str().into());
            let place = clicks.iter().filter(|click| click.time <= search.time).count();
            Some(HistorySearch { search_id: None, query, source, clicked_item_ids, place })
        })
        .collect();
    History { recommendations: clicks.iter().map(|click| item(&click.item)).collect(), searches }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Training and serving are one path: what a data set gives for a target is what the featurizer gives for the raw
    /// history before it, and no search at or after the target's time is in it.
    #[test]
    fn a_target_sees_what_a_server_would_have_seen(
        clicks in prop::collection::vec(raw_click(), 1..40),
        searches in prop::collection::vec(raw_search(), 0..25),
        unclicked in prop::sample::select(
            vec![UnclickedSearches::FirstShown, UnclickedSearches::Keep, UnclickedSearches::Drop]),
        limits in (1usize..6, 1usize..6, 1usize..4, 1usize..4),
    ) {
        prop_assume!(clicks.iter().any(|click| click.click));
        let dir = raw_logs(&clicks, &searches);
        let options = ImportOptions { unclicked_searches: unclicked, ..ImportOptions::default() };
        let mut imported = kuaisar::read(dir.path(), &options).unwrap();
        imported.write(&dir.path().join("data"), Existing::Refuse).unwrap();
        let dataset = Dataset::read(&dir.path().join("data")).unwrap();
        let limits = HistoryLimits {
            recommendations: limits.0, searches: limits.1, words: limits.2, clicks: limits.3,
        };
        let featurizer = Featurizer::new(dataset.catalogue.clone(), limits);
        let mut targets = 0;
        for user in 0..4u8 {
            let mut history: Vec<&RawClick> = clicks.iter().filter(|c| c.user == user && c.click).collect();
            history.sort_by_key(|click| click.time);
            let mut seen = HashSet::new();
            history.retain(|click| seen.insert((click.time, click.item)));
            let id = UserId::new(&format!("u{user}")).unwrap();
            for position in 1..history.len() {
                let target = Target { user: dataset.catalogue.users.row(id.as_str()).unwrap(), position: position as u32 };
                let time = history[position].time;
                let stored = stored(&history[..position], &searches, user, time, unclicked);
                prop_assert_eq!(dataset.searches_before(target), stored.searches.len());
                let visible = &dataset.search_times(target.user)[..dataset.searches_before(target)];
                prop_assert!(visible.iter().all(|&search| search < i64::from(time)));
                // A server asks about the present, a data set about the target's time: the rest is the same.
                let served = UserFeatures::clone(&featurizer.features(&id, &stored).features).as_of(time.into());
                prop_assert_eq!(dataset.features(target, &featurizer), served);
                targets += 1;
            }
        }
        let all: usize = [Split::Train, Split::Validation, Split::Test].map(|s| dataset.targets(s).len()).iter().sum();
        prop_assert_eq!(all, targets);
    }
}
