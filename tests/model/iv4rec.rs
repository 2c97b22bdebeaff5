//! Where IV4Rec's instruments come from.

use candle_core::Device;
use sesrec::{
    data::{Dataset, UserLog},
    model::{
        ModelConfig, Weights,
        baselines::{Baseline, Iv4RecConfig},
    },
};

use crate::fixture::{ITEMS, catalogue, inputs};

/// Five clicks, at 10, 20, ...: from 40 on it is validation, from 50 on test.
const CLICKS: [(i64, u32); 5] = [(10, 1), (20, 2), (30, 3), (40, 4), (50, 5)];

fn user(searches: &[(i64, u32, &[u32])]) -> UserLog {
    let searches = searches.iter().map(|&(time, query, clicks)| (time, query, clicks.to_vec())).collect();
    UserLog { recommendations: CLICKS.to_vec(), searches }
}

/// By item row, the two queries that are known of it at the end.
fn instruments(users: &[UserLog]) -> Vec<Vec<u32>> {
    let config = ModelConfig::Iv4Rec(Iv4RecConfig { instruments: 2, ..Iv4RecConfig::new(inputs().0) });
    let dataset = Dataset::from_logs(catalogue(), users.iter().cloned());
    let tensors = config.new_trainable(&dataset, 3, &Device::Cpu).unwrap().parameters().snapshot().unwrap();
    let ModelConfig::Iv4Rec(config) = config else { unreachable!() };
    let network = config.network(&Weights::new(&tensors)).unwrap();
    (0..=ITEMS).map(|item| network.instruments.of(item).unwrap().to_vec()).collect()
}

#[test]
fn the_most_frequent_queries_of_training_searches() {
    let users = [
        user(&[(5, 3, &[7, 8]), (15, 4, &[7]), (25, 9, &[7])]),
        user(&[(5, 9, &[7]), (15, 4, &[7]), (25, 9, &[7]), (26, 0, &[7])]),
    ];
    let table = instruments(&users);
    // Of item 7: query 9 three times, 4 twice, 3 once; a query that is not of the catalogue is none.
    assert_eq!((&table[7][..], &table[8][..]), (&[9, 4][..], &[3, 0][..]));
    assert!(table.iter().enumerate().all(|(item, queries)| item == 7 || item == 8 || queries == &[0, 0]));
    let equally_often = instruments(&[user(&[(5, 6, &[7]), (6, 2, &[7]), (7, 5, &[7])])]);
    assert_eq!(equally_often[7], [2, 5]);
}

#[test]
fn a_planted_leak_does_not_pay() {
    let honest = [user(&[(5, 3, &[7])]), user(&[(15, 4, &[5])])];
    // Query 11 leads everyone to everything that is to be predicted, at the validation interaction's time and later.
    let leaks: [(i64, u32, &[u32]); 4] =
        [(40, 11, &[4, 5, 7]), (45, 11, &[4, 5, 7]), (50, 11, &[5, 7]), (60, 11, &[5])];
    let planted: Vec<UserLog> = honest
        .iter()
        .map(|log| UserLog {
            searches: log.searches.iter().cloned().chain(user(&leaks).searches).collect(),
            ..log.clone()
        })
        .collect();
    let table = instruments(&planted);
    assert!(table.iter().flatten().all(|&query| query != 11), "{table:?}");
    assert_eq!(table, instruments(&honest));
    // A moment earlier it would have counted: the test would see a leak.
    assert_eq!(instruments(&[user(&[(39, 11, &[4])])])[4], [11, 0]);
}
