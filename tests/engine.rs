//! The engine's promises, with a model that computes little and records what it is asked.

mod engine_support;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use engine_support::{FakeModel, Harness, NAN_ITEM, POISONED_ITEM, POISONED_USER, features, job, key, loaded};
use sesrec::{
    domain::{Deadline, UserId},
    engine::{Engine, EngineError, EngineOptions, Explain, ModelSlot, RankJob},
    telemetry::Metrics,
};

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

#[tokio::test]
async fn waiting_requests_are_batched_and_answered_as_if_alone() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    let jobs: Vec<RankJob> = (0..64).map(|n| harness.job(n, 1 + n % 7)).collect();
    let first = harness.spawn(jobs[0].clone());
    harness.model.entered(1).await;
    let others: Vec<_> = jobs[1..].iter().map(|job| harness.spawn(job.clone())).collect();
    harness.queued(63).await;
    harness.model.open_gate();

    let mut answers = vec![first.await.unwrap().unwrap()];
    for other in others {
        answers.push(other.await.unwrap().unwrap());
    }
    for (job, answer) in jobs.iter().zip(&answers) {
        assert_eq!(answer.items, harness.expected(job));
    }
    assert_eq!(harness.metric("sesrec_engine_batch_requests_count"), 2.0);
    assert_eq!(harness.metric("sesrec_engine_batch_requests_sum"), 64.0);
    assert_eq!(harness.metric("sesrec_engine_queued_requests"), 0.0);
    // One by one, nothing is different.
    for (job, answer) in jobs.iter().zip(&answers) {
        assert_eq!(harness.engine.rank(job.clone()).await.unwrap().items, answer.items);
    }
}

#[tokio::test]
async fn a_deadline_in_the_queue_fires_on_time_and_costs_no_model_time() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    let running = harness.spawn(harness.job(1, 3));
    harness.model.entered(1).await;

    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let late = RankJob { deadline: Deadline::after(Duration::from_millis(50)), ..harness.job(2, 3) };
    let error = harness.engine.rank(late).await.unwrap_err();
    assert!(matches!(error, EngineError::DeadlineExceeded), "{error}");
    assert!((50..=52).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let past = RankJob { deadline: Deadline::after(Duration::ZERO), ..harness.job(3, 3) };
    assert!(matches!(harness.engine.rank(past).await, Err(EngineError::DeadlineExceeded)));
    tokio::time::resume();

    harness.model.open_gate();
    running.await.unwrap().unwrap();
    harness.engine.shutdown().await;
    assert_eq!(harness.model.encoded_users(), [1]);
    let abandoned = r#"sesrec_engine_abandoned_total{reason="deadline",phase="queued"}"#;
    assert_eq!(harness.metric(abandoned), 2.0);
}

#[tokio::test]
async fn a_deadline_while_computing_is_kept_too() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    // Time for the device to begin.
    let job = RankJob { deadline: Deadline::after(Duration::from_secs(1)), ..harness.job(1, 3) };
    let error = harness.engine.rank(job).await.unwrap_err();
    assert!(matches!(error, EngineError::DeadlineExceeded), "{error}");
    harness.model.open_gate();
    harness.engine.shutdown().await;
    // The gate is in `encode`: nothing is scored for a caller that has left.
    assert_eq!(harness.model.scored_requests(), 0);
    let abandoned = r#"sesrec_engine_abandoned_total{reason="deadline",phase="computing"}"#;
    assert_eq!(harness.metric(abandoned), 1.0);
}

#[tokio::test]
async fn cancelled_callers_cost_nothing() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    let running = harness.spawn(harness.job(1, 3));
    harness.model.entered(1).await;
    let cancelled: Vec<_> = (2..10).map(|n| harness.spawn(harness.job(n, 3))).collect();
    let patient = harness.spawn(harness.job(10, 3));
    harness.queued(9).await;
    for task in cancelled {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    harness.queued(1).await;
    harness.model.open_gate();
    running.await.unwrap().unwrap();
    patient.await.unwrap().unwrap();
    assert_eq!(harness.model.encoded_users(), [1, 10]);
    let abandoned = r#"sesrec_engine_abandoned_total{reason="cancelled",phase="queued"}"#;
    assert_eq!(harness.metric(abandoned), 8.0);
}

#[tokio::test]
async fn overload_is_refused_at_once_while_others_finish() {
    let harness = Harness::new(EngineOptions { max_queued_requests: 4, ..EngineOptions::default() });
    harness.model.close_gate();
    let mut admitted = vec![harness.spawn(harness.job(0, 3))];
    harness.model.entered(1).await;
    admitted.extend((1..4).map(|n| harness.spawn(harness.job(n, 3))));
    harness.queued(3).await;
    // The gate is closed: whoever waited for the device would wait for ever.
    for n in 4..104 {
        let error = harness.engine.rank(harness.job(n, 3)).await.unwrap_err();
        assert!(matches!(error, EngineError::Overloaded(_)), "{error}");
    }
    let wait = harness.engine.retry_after();
    assert!((Duration::from_millis(1)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
    harness.model.open_gate();
    for task in admitted {
        task.await.unwrap().unwrap();
    }
    assert_eq!(harness.metric(r#"sesrec_requests_rejected_total{reason="queued_requests"}"#), 100.0);
    harness.engine.rank(harness.job(1, 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_load_loses_nothing_and_frees_the_old_model() {
    let metrics = Metrics::new();
    let slot = Arc::new(ModelSlot::new(loaded(FakeModel::new(1.0), "one"), metrics.clone()));
    let engine = Engine::start(slot.clone(), EngineOptions::default(), metrics.clone());
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let (engine, slot) = (engine.clone(), slot.clone());
            tokio::spawn(async move {
                for n in 0..100 {
                    let model = slot.live();
                    let version = model.info.version.to_string();
                    let job = job(&model, caller * 100 + n, 5);
                    let answer = engine.rank(job.clone()).await.unwrap();
                    let factor = if version == "one" { 1.0 } else { 2.0 };
                    assert_eq!(answer.items, engine_support::expected(factor, &job), "{version}");
                    drop((model, job));
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let old: Weak<_> = Arc::downgrade(&slot.live());
    while metrics_value(&metrics, "sesrec_engine_batch_requests_sum") < 200.0 {
        tokio::task::yield_now().await;
    }
    drop(slot.swap(loaded(FakeModel::new(2.0), "two")));
    for caller in callers {
        caller.await.unwrap();
    }
    // The device thread is past its last batch of the old model once it has answered another one.
    engine.rank(job(&slot.live(), 1, 1)).await.unwrap();
    assert!(old.upgrade().is_none(), "the old model is still held");
    assert_eq!(metrics_value(&metrics, "sesrec_engine_batch_requests_sum"), 1601.0);
    assert_eq!(metrics_value(&metrics, "sesrec_model_swaps_total"), 1.0);
    assert!(metrics.encode().contains(r#"sesrec_model_info{name="fake",version="two""#));
}

fn metrics_value(metrics: &Metrics, series: &str) -> f64 {
    engine_support::metric(metrics, series)
}

#[tokio::test]
async fn an_encoded_user_is_reused_until_the_next_event() {
    let harness = Harness::new(EngineOptions::default());
    let with_key = |version| RankJob { cache_key: Some(key(7, version)), ..harness.job(7, 3) };
    let first = harness.engine.rank(with_key(1)).await.unwrap();
    let second = harness.engine.rank(with_key(1)).await.unwrap();
    assert_eq!(first.items, second.items);
    assert_eq!(second.timings.encode, Duration::ZERO);
    assert_eq!(harness.model.encoded_users(), [7]);
    harness.engine.rank(with_key(2)).await.unwrap();
    assert_eq!(harness.model.encoded_users(), [7, 7]);
    // Erased: encoded anew. Inline histories: never remembered.
    harness.engine.forget(&UserId::new("user7").unwrap());
    harness.engine.rank(with_key(2)).await.unwrap();
    harness.engine.rank(harness.job(7, 3)).await.unwrap();
    assert_eq!(harness.model.encoded_users(), [7; 4]);
    assert_eq!(harness.metric("sesrec_user_cache_hits_total"), 1.0);
    assert_eq!(harness.metric("sesrec_user_cache_misses_total"), 3.0);
    assert_eq!(harness.metric("sesrec_user_cache_entries"), 1.0);
}

#[tokio::test]
async fn a_user_that_asks_twice_at_once_is_encoded_once() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    let running = harness.spawn(harness.job(1, 3));
    harness.model.entered(1).await;
    let same: Vec<_> = (1..=10)
        .map(|candidates| harness.spawn(RankJob { cache_key: Some(key(7, 1)), ..harness.job(7, candidates) }))
        .collect();
    harness.queued(10).await;
    harness.model.open_gate();
    running.await.unwrap().unwrap();
    for (task, candidates) in same.into_iter().zip(1..) {
        assert_eq!(task.await.unwrap().unwrap().items, harness.expected(&harness.job(7, candidates)));
    }
    assert_eq!(harness.model.encoded_users(), [1, 7]);
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let harness = Harness::new(EngineOptions { user_cache_bytes: 100_000, ..EngineOptions::default() });
    for n in 0..200 {
        harness.engine.rank(RankJob { cache_key: Some(key(n, 1)), ..harness.job(n, 1) }).await.unwrap();
        assert!(harness.metric("sesrec_user_cache_bytes") <= 100_000.0);
    }
    assert!(harness.metric("sesrec_user_cache_evictions_total") > 100.0);
    assert!(harness.metric("sesrec_user_cache_entries") > 10.0);
}

#[tokio::test]
async fn a_failing_request_fails_alone_and_the_thread_survives() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    let running = harness.spawn(harness.job(1, 3));
    harness.model.entered(1).await;
    let good: Vec<_> = (2..6).map(|n| (harness.job(n, 4), harness.spawn(harness.job(n, 4)))).collect();
    let with_items = |items: Vec<u32>| RankJob { items, ..harness.job(9, 0) };
    let bad = [
        (harness.job(POISONED_USER, 2), "the model panicked: poisoned user"),
        (with_items(vec![1, POISONED_ITEM]), "poisoned item"),
        (with_items(vec![1, NAN_ITEM]), "candidate 1 is not a number"),
    ]
    .map(|(job, message)| (harness.spawn(job), message));
    harness.queued(7).await;
    harness.model.open_gate();
    running.await.unwrap().unwrap();
    for (job, task) in good {
        assert_eq!(task.await.unwrap().unwrap().items, harness.expected(&job));
    }
    for (task, expected) in bad {
        match task.await.unwrap() {
            Err(EngineError::Model(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(harness.metric("sesrec_engine_model_failures_total") >= 3.0);
    harness.engine.rank(harness.job(1, 1)).await.unwrap();
    let outside = harness.engine.rank(with_items(vec![1, 1_000_000])).await.unwrap_err().to_string();
    assert!(outside.contains("candidate row 1000000 is outside the catalogue"), "{outside}");
}

#[tokio::test]
async fn batches_keep_to_the_budget_and_the_order_of_arrival() {
    let harness = Harness::new(EngineOptions {
        batch_budget: Some(count(100)),
        max_batch_requests: count(3),
        ..EngineOptions::default()
    });
    harness.model.close_gate();
    let mut tasks = vec![harness.spawn(harness.job(0, 1))];
    harness.model.entered(1).await;
    // 2 history events each. 5,000 candidates exceed the budget by themselves and run alone.
    for (n, candidates) in [(1, 40), (2, 40), (3, 40), (4, 5000), (5, 1), (6, 1), (7, 1), (8, 1)] {
        tasks.push(harness.spawn(harness.job(n, candidates)));
        harness.queued(n).await;
    }
    harness.model.open_gate();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let expected: [&[usize]; 6] = [&[1], &[40, 40], &[40], &[5000], &[1, 1, 1], &[1]];
    assert_eq!(harness.model.batches(), expected);
}

#[tokio::test]
async fn threads_of_a_cpu_share_what_waits() {
    let harness = Harness::new(EngineOptions { device_threads: count(2), ..EngineOptions::default() });
    harness.model.close_gate();
    let mut tasks = vec![];
    for user in 0..2 {
        tasks.push(harness.spawn(harness.job(user, 1)));
        harness.model.entered(user + 1).await;
    }
    for n in 1..=8 {
        tasks.push(harness.spawn(harness.job(1 + n, 1)));
        harness.queued(n).await;
    }
    harness.model.open_gate();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // Half of eight, half of the four that were left, and so on: however the threads take turns.
    let mut sizes: Vec<usize> = harness.model.batches().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 1, 1, 2, 4]);
}

#[tokio::test]
async fn an_idle_device_waits_for_company_no_longer_than_told() {
    let options =
        EngineOptions { max_delay: Duration::from_secs(30), max_batch_requests: count(2), ..EngineOptions::default() };
    let harness = Harness::new(options);
    let started = Instant::now();
    let (a, b) = tokio::join!(harness.engine.rank(harness.job(1, 1)), harness.engine.rank(harness.job(2, 1)));
    assert!(a.is_ok() && b.is_ok());
    assert!(started.elapsed() < Duration::from_secs(10), "a full batch doesn't wait");
    assert_eq!(harness.model.batches(), [[1, 1]]);

    let harness = Harness::new(EngineOptions { max_delay: Duration::from_millis(20), ..EngineOptions::default() });
    let started = Instant::now();
    harness.engine.rank(harness.job(1, 1)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(20));
}

#[tokio::test]
async fn the_best_are_returned_and_explained() {
    let harness = Harness::new(EngineOptions::default());
    let job = RankJob { top_k: 3, explain: Explain::Yes, ..harness.job(4, 50) };
    let answer = harness.engine.rank(job.clone()).await.unwrap();
    assert_eq!(answer.items, harness.expected(&job)[..3]);
    let (weights, attention) = answer.explanation.unwrap();
    assert_eq!(weights.recommendations.len(), features(4).recommendations.len());
    // The fake explains an item by its row.
    let rows: Vec<f32> = answer.items.iter().map(|item| job.items[item.candidate] as f32).collect();
    assert_eq!(attention.iter().map(|item| item.recommendations.all[0]).collect::<Vec<_>>(), rows);
    assert!(harness.engine.rank(harness.job(4, 0)).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn shutdown_answers_what_waits_and_ends_the_threads() {
    let harness = Harness::new(EngineOptions::default());
    harness.model.close_gate();
    let mut tasks = vec![harness.spawn(harness.job(0, 1))];
    harness.model.entered(1).await;
    tasks.extend((1..8).map(|n| harness.spawn(harness.job(n, 2))));
    harness.queued(7).await;
    let engine = harness.engine.clone();
    let shutdown = tokio::spawn(async move { engine.shutdown().await });
    // A refusal proves that the queue is closed, while requests still wait in it.
    loop {
        let probe = RankJob { deadline: Deadline::after(Duration::from_millis(5)), ..harness.job(99, 1) };
        match harness.engine.rank(probe).await {
            Err(EngineError::ShuttingDown) => break,
            Err(EngineError::DeadlineExceeded) => {}
            other => panic!("{other:?}"),
        }
    }
    harness.model.open_gate();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    shutdown.await.unwrap();
    harness.engine.shutdown().await;
}

#[tokio::test]
async fn sesrec_answers_in_a_batch_and_among_threads_as_alone() {
    let metrics = Metrics::new();
    let slot = Arc::new(ModelSlot::new(engine_support::sesrec(), metrics.clone()));
    // So that all of them meet in one batch.
    let options =
        EngineOptions { max_delay: Duration::from_secs(30), max_batch_requests: count(48), ..EngineOptions::default() };
    let together = Engine::start(slot.clone(), options, metrics.clone());
    let alone = Engine::start(slot.clone(), EngineOptions::default(), Metrics::new());
    let jobs: Vec<RankJob> = (0..48).map(|n| engine_support::sesrec_job(&slot.live(), n)).collect();
    let batched = futures::future::join_all(jobs.iter().map(|job| together.rank(job.clone()))).await;
    assert_eq!(metrics_value(&metrics, "sesrec_engine_batch_requests_count"), 1.0);
    assert!(metrics_value(&metrics, "sesrec_engine_padding_events_total") > 0.0);
    let threads = EngineOptions { device_threads: count(3), ..EngineOptions::default() };
    let divided = Engine::start(slot.clone(), threads, Metrics::new());
    let divided = futures::future::join_all(jobs.iter().map(|job| divided.rank(job.clone()))).await;
    for ((job, batched), divided) in jobs.iter().zip(batched).zip(divided) {
        let batched = batched.unwrap();
        let of_batched = |candidate| batched.items.iter().find(|item| item.candidate == candidate).unwrap();
        assert_eq!(batched.items.len(), job.items.len());
        let divided = divided.unwrap();
        assert_eq!(divided.items.len(), job.items.len());
        for item in &divided.items {
            let other = of_batched(item.candidate);
            assert!((item.score - other.score).abs() < 1e-5, "{item:?} {other:?}");
        }
        // Twice: the second time the user is cached, where it may be.
        for _ in 0..2 {
            let single = alone.rank(job.clone()).await.unwrap();
            assert_eq!(single.items.len(), job.items.len());
            for item in &single.items {
                let other = of_batched(item.candidate);
                assert!((item.score - other.score).abs() < 1e-5, "{item:?} {other:?}");
            }
            let (weights, attention) = single.explanation.unwrap();
            assert_eq!(weights.recommendations.len(), job.features.recommendations.len());
            assert_eq!(weights.searches.len(), job.features.searches.len());
            assert_eq!(attention.len(), single.items.len());
        }
    }
}
