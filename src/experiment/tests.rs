//! Declarations, the store, the report and what models cost, without runs.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use candle_core::Device;

use super::{store::Found, *};
use crate::{
    data::{Catalogue, Dataset, EvaluationNegatives, ITEM_WORDS, Progress, Split, fixture},
    eval::{Metrics, Rank, UserRank},
    model::{InputConfig, InputSizes, ModelConfig, ModelKind, Setting},
    train::{Candidates, Optimizer, Recipe},
};

fn dataset() -> Dataset {
    fixture::dataset(40, 3, (0..6u32).map(|user| fixture::User::clicking(&[1 + user, 2 + user, 3 + user, 4 + user])))
}

fn with_base<R>(settings: Vec<Setting>, declare: impl FnOnce(&Base<'_>) -> R) -> R {
    let sizes = InputSizes::AMAZON;
    let inputs = InputConfig::for_catalogue(&dataset().catalogue, sizes);
    let recipe = |kind: ModelKind, _: &ModelConfig| Recipe { dropout: kind.dropout(), ..Recipe::default() };
    declare(&Base { inputs, heads: sizes.heads, settings: &|_| settings.clone(), recipe: &recipe })
}

fn setting(variant: &Variant, name: &str) -> serde_json::Value {
    variant.model.setting(name).unwrap_or_default()
}

#[test]
fn the_best_recipe_is_taken_apart() {
    let paper = with_base(vec![], studies::paper).unwrap();
    let of_best = ["matching", "inner_products"].map(|name| Setting::new(name, true));
    let no_users = Setting::new("user_attributes", serde_json::json!([]));
    let of_best = of_best.into_iter().chain([Setting::new("prediction_loss", "softmax"), no_users]).collect();
    let variants = with_base(of_best, |base| studies::recipe(base, &paper)).unwrap();
    let row = |name: &str| variants.iter().find(|variant| variant.name == name).unwrap();
    assert_eq!(variants[0].name, "best");
    assert_eq!(setting(row("without matches"), "matching"), false);
    assert_eq!(setting(row("without matches"), "prediction_loss"), "softmax");
    assert_eq!(setting(row("without inner products"), "inner_products"), false);
    assert_eq!(setting(row("without inner products"), "matching"), true);
    assert_eq!(setting(row("binary cross-entropy"), "prediction_loss"), "bce");
    assert!(row("best").model.inputs().user_attributes.is_empty());
    let users = &row("with users' embeddings").model.inputs().user_attributes;
    assert_eq!(users, &paper.model.inputs().user_attributes, "what a row sets wins over what the recipe sets");
    assert_eq!(row("fewer negatives").recipe.negatives, paper.recipe.negatives);
    let of_captions = ["without captions' words", "without shared words"];
    assert!(variants.iter().all(|variant| !of_captions.contains(&variant.name.as_str())), "these items have none");
}

#[test]
fn captions_are_taken_apart_where_there_are_some() {
    let table = |name: &str, rows: usize, dim| serde_json::json!({ "name": name, "rows": rows, "dim": dim });
    let Catalogue { items, words, .. } = &*dataset().catalogue;
    let attributes = serde_json::json!([table("id", items.rows(), 48), table(ITEM_WORDS, words.rows(), 16)]);
    let of_best = vec![Setting::new("item_attributes", attributes), Setting::new("shared_words", true)];
    let paper = with_base(vec![], studies::paper).unwrap();
    let variants = with_base(of_best, |base| {
        let inputs = InputConfig { item_width: Some(32), ..base.inputs.clone() };
        studies::recipe(&Base { inputs, ..*base }, &paper)
    })
    .unwrap();
    let row = |name: &str| variants.iter().find(|variant| variant.name == name).unwrap();
    let attributes = |name: &str| {
        let attributes = &row(name).model.inputs().item_attributes;
        attributes.iter().map(|attribute| (attribute.name.clone(), attribute.dim)).collect::<Vec<_>>()
    };
    assert_eq!(attributes("best"), [("id".into(), 48), (ITEM_WORDS.into(), 16)]);
    assert_eq!(attributes("without shared words"), attributes("best"));
    assert_eq!(setting(row("without shared words"), "shared_words"), false);
    assert_eq!(attributes("without captions' words"), [("id".into(), 64)], "as wide as before");
    assert_eq!(attributes("ids' and words' widths added up"), attributes("best"));
    assert_eq!((setting(row("best"), "hidden_dim"), row("best").model.inputs().item_dim()), (32.into(), 32));
    let wide = row("ids' and words' widths added up");
    assert_eq!((setting(wide, "hidden_dim"), wide.model.inputs().item_dim()), (64.into(), 64));
    assert_eq!(setting(row("without captions' words"), "shared_words"), false);
    assert_eq!(setting(row("without matches"), "shared_words"), true);
}

#[test]
fn a_grid_is_every_combination() {
    let text = "[model]\nloss_weights.align = [0, 0.1]\nmlp = [[20, 1]]\nthreshold = \"median\"\n[recipe]\ndropout = [0.2, 0.3]";
    let grid = Grid::parse(text).unwrap();
    let variants = with_base(vec![], |base| grid.variants(base)).unwrap();
    let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "loss_weights.align=0, dropout=0.2",
            "loss_weights.align=0, dropout=0.3",
            "loss_weights.align=0.1, dropout=0.2",
            "loss_weights.align=0.1, dropout=0.3"
        ]
    );
    assert_eq!(
        variants[3].settings,
        [("loss_weights.align", "0.1"), ("dropout", "0.3")].map(|(a, b)| (a.into(), b.into()))
    );
    for variant in &variants {
        assert_eq!(
            (setting(variant, "mlp"), setting(variant, "threshold")),
            (serde_json::json!([20, 1]), "median".into())
        );
        assert_eq!(setting(variant, "dropout"), variant.recipe.dropout, "the model's file tells the recipe's");
    }
    let models = Grid::parse("[model]\nmodel = [\"stamp\", \"sesrec\"]").unwrap();
    let variants = with_base(vec![], |base| models.variants(base)).unwrap();
    assert_eq!(
        variants.iter().map(|v| (v.model.kind(), v.recipe.dropout)).collect::<Vec<_>>(),
        [("stamp", 0.0), ("sesrec", 0.1)]
    );
    // A row by that name would be trained by the recipe's rate.
    let refused = Grid::parse("[model]\ndropout = [0.1, 0.5]").unwrap();
    let error = with_base(vec![], |base| refused.variants(base)).unwrap_err().to_string();
    assert!(error.contains("belongs to [recipe]"), "{error}");
    assert!(Grid::parse(&format!("[recipe]\nepochs = {:?}", (1..=10_001).collect::<Vec<_>>())).is_err());
    assert_eq!(Grid::parse("").unwrap().len(), 1);
}

#[test]
fn a_common_setting_reaches_the_models_that_have_it() {
    let own = vec![Setting::new("loss", "own")];
    let variants = with_base(own, |base| studies::table2(base, ModelKind::all())).unwrap();
    assert_eq!(variants.len(), ModelKind::all().len());
    for variant in variants {
        let default = variant.model.setting("loss").unwrap_or_else(|| "own".into());
        assert_eq!(default, "own", "{}", variant.name);
    }
}

#[test]
fn what_rows_have_besides_their_architecture_is_named() {
    let softmax = vec![Setting::new("prediction_loss", "softmax")];
    let models = [ModelKind::Stamp, ModelKind::Sesrec, ModelKind::SasRec, ModelKind::Din];
    let variants = with_base(softmax, |base| studies::table2(base, &models)).unwrap();
    let lines = differences(&variants);
    let loss = "loss by row: bce (stamp, sasrec); softmax (sesrec); the model's only one (din)";
    assert!(lines.iter().any(|line| line == loss), "{lines:?}");
    assert!(lines.iter().all(|line| !line.starts_with("items")), "all have the same: {lines:?}");
    assert_eq!(differences(&variants[..1]), Vec::<String>::new());
}

#[test]
fn users_may_have_different_numbers_of_negatives() {
    let (dataset, directory) = (dataset(), tempfile::tempdir().unwrap());
    let path = directory.path().join("negatives.txt");
    fs::write(&path, "u0 i20\nu1 i20 i21 i22\nu2 i20\nu3 i20\nu4 i20\nu5 i20 i21\n").unwrap();
    let lines = |negatives: &EvaluationNegatives| {
        let plan = Plan { variants: &[], seeds: &[1] };
        protocol(&dataset, (negatives, "as said"), plan, &Finished::default()).join("\n")
    };
    let of_file = lines(&EvaluationNegatives::read(&path, &dataset.catalogue).unwrap());
    assert!(
        of_file.contains("each of 6 users' last interaction is ranked among 1 to 3 negatives (as said)"),
        "{of_file}"
    );
    let sampled = lines(&EvaluationNegatives::sampled(5, 1));
    assert!(sampled.contains("ranked among 5 negatives (as said)"), "{sampled}");
}

#[test]
fn the_ablation_adds_one_part_at_a_time() {
    let variants = with_base(vec![], studies::ablation).unwrap();
    let parts = |variant: &Variant| {
        let weight = |name: &str| setting(variant, name).as_f64().unwrap();
        (weight("loss_weights.align"), weight("loss_weights.contrast"), setting(variant, "interest_extraction"))
    };
    let expected = [(0.0, 0.0, "single"), (0.1, 0.0, "single"), (0.1, 0.001, "single"), (0.1, 0.001, "multiple")];
    for (variant, (align, contrast, extraction)) in variants.iter().zip(expected) {
        assert_eq!(parts(variant), (align, contrast, extraction.into()), "{}", variant.name);
    }
    let ModelConfig::Sesrec(base) = &variants[0].model else { panic!("not SESRec") };
    let ModelConfig::Sesrec(full) = &variants[3].model else { panic!("not SESRec") };
    assert_eq!(full.head_dim() - base.head_dim(), 4 * base.hidden_dim, "two poolings less on each side");
    // The last row is the model as it is trained.
    let plain = with_base(vec![], |base| base.variant("", ModelKind::Sesrec, &Changes::default())).unwrap();
    assert_eq!((&plain.model, &plain.recipe), (&variants[3].model, &variants[3].recipe));
}

#[test]
fn studies_of_single_settings() {
    let variants = with_base(vec![], studies::thresholds).unwrap();
    let thresholds: Vec<_> = variants.iter().map(|variant| setting(variant, "threshold")).collect();
    assert_eq!(thresholds, [0.0625.into(), 0.125.into(), serde_json::Value::from("median"), "mean".into()]);
    let variants = with_base(vec![], |base| studies::weights(base, &[0.0, 0.5], &[0.01])).unwrap();
    let weights =
        |variant: &Variant| (setting(variant, "loss_weights.align"), setting(variant, "loss_weights.contrast"));
    let weights: Vec<_> = variants.iter().map(weights).collect();
    assert_eq!(weights, [(0.0.into(), 0.001.into()), (0.5.into(), 0.001.into()), (0.1.into(), 0.01.into())]);
    assert_eq!(variants[2].name, "β = 0.01");
}

fn record(dataset: &Dataset, seed: u64) -> RunRecord {
    let negatives = EvaluationNegatives::sampled(5, 1);
    let variant = with_base(vec![], |base| base.variant("", ModelKind::Sesrec, &Changes::default())).unwrap();
    let config = RunConfig {
        revision: RunConfig::revision(&variant.model),
        model: variant.model,
        recipe: Recipe { seed, ..variant.recipe },
        data_checksum: dataset.checksum.clone(),
        candidates: Candidates::of(&dataset.targets(Split::Test), &negatives, dataset).unwrap(),
    };
    let ranks: Vec<Rank> = (0..6).map(|user| Rank(user * 3 % 5)).collect();
    RunRecord {
        config,
        program: "test".into(),
        device: "cpu".into(),
        threads: 1,
        finished: String::new(),
        seconds: 1.5,
        best_epoch: 1,
        epochs: vec![],
        parameters: 7,
        validation: Metrics::default(),
        test: Metrics::of(ranks.iter().copied()),
        ranks,
    }
}

#[test]
fn the_store_gives_back_what_it_was_given_and_nothing_else() {
    let (dataset, directory) = (dataset(), tempfile::tempdir().unwrap());
    let store = RunStore::open(directory.path()).unwrap();
    assert!(matches!(RunStore::open(directory.path()), Err(ExperimentError::Occupied(_))));
    let (run, other) = (record(&dataset, 1), record(&dataset, 2));
    let key = run.config.key();
    assert_ne!(key, other.config.key());
    assert!(matches!(store.find(&run.config, &key), Found::Nothing));
    fs::create_dir(store.partial(&key)).unwrap();
    store.keep(run.clone(), &key).unwrap();
    assert!(!store.partial(&key).exists(), "its checkpoints have served");
    let Found::Run(found) = store.find(&run.config, &key) else { panic!("it is not there") };
    assert_eq!(*found, run);

    let path = directory.path().join(format!("runs/{key}.json"));
    let json = fs::read_to_string(&path).unwrap();
    assert!(json.contains("\"ranks\": \"0 3 1 4 2 0\""), "{json}");
    for (damaged, reason) in [
        (json[..json.len() - 3].to_owned(), "EOF"),
        (json.replacen("\"seconds\": 1.5", "\"seconds\": 1.4", 1), "checksum"),
        (json.replacen("0 3 1", "0 3 2", 1), "checksum"),
        (json.replacen("\"seed\": 1", "\"seed\": 2", 1), "another run"),
        (json.replacen("\"format\": 1", "\"format\": 0", 1), "format 0"),
        (String::new(), "EOF"),
    ] {
        fs::write(&path, damaged).unwrap();
        let Found::Damaged(message) = store.find(&run.config, &key) else { panic!("{reason} went unnoticed") };
        assert!(message.contains(reason) && message.contains(&key.to_string()), "{message}");
    }
}

/// A run that a version without these settings wrote, under the name that it gave it.
#[test]
fn runs_of_a_version_with_fewer_settings_are_found() {
    let (dataset, directory) = (dataset(), tempfile::tempdir().unwrap());
    let run = record(&dataset, 1);
    let fewer = |json: String| json.replace("\"item_projection\":true,", "").replace("\"optimizer\":\"adam\",", "");
    let old = fewer(serde_json::to_string(&run).unwrap());
    assert_ne!(old, serde_json::to_string(&run).unwrap());
    let hash = |json: &str| blake3::hash(json.as_bytes()).to_hex()[..20].to_owned();
    let key = run.config.key();
    assert_eq!(key.to_string(), hash(&fewer(serde_json::to_string(&run.config).unwrap())));
    let store = RunStore::open(directory.path()).unwrap();
    let file = format!("{{\"format\":1,\"checksum\":\"{}\",\"run\":{old}}}", hash(&old));
    fs::write(directory.path().join(format!("runs/{key}.json")), file).unwrap();
    let Found::Run(found) = store.find(&run.config, &key) else { panic!("it is not found") };
    assert_eq!(*found, run);
    // Other values are another run, and so is what other code makes of the same ones.
    let lazy = Recipe { optimizer: Optimizer::LazyAdam, ..run.config.recipe.clone() };
    assert_ne!(RunConfig { recipe: lazy, ..run.config.clone() }.key(), key);
    assert_ne!(RunConfig { revision: run.config.revision + 1, ..run.config }.key(), key);
}

fn row(name: &str, ranks: impl IntoIterator<Item = u32>) -> Row {
    let ranks: Vec<UserRank> = (0..).zip(ranks).map(|(user, rank)| UserRank { user, rank: Rank(rank) }).collect();
    Row::of_ranks(name, &ranks)
}

#[test]
fn the_best_is_bold_the_second_underlined_and_significance_starred() {
    let (users, far) = (200u32, 50);
    // The best has two more users in three at the top than the second: no chance.
    let rows = vec![
        row("second", (0..users).map(|user| if user % 3 == 0 { 0 } else { far })),
        row("best", (0..users).map(|user| user % 2)),
        row("third", (0..users).map(|_| far)),
    ];
    let report = Report {
        title: "T".into(),
        protocol: vec!["p".into()],
        notes: vec![],
        rows,
        columns: Columns::Validation,
        steps: true,
        figures: vec![("shown".into(), "f".into())],
    };
    let table = report.table().csv();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines[0][1..7], Metrics::NAMES);
    assert_eq!((lines[1][0], lines[1][1], lines[1][6]), ("second", "<u>0.3350</u>", "<u>0.3480</u>"), "{table}");
    assert_eq!((lines[2][3], lines[2][6]), ("**0.5000**<sup>*</sup>", "**0.7500**<sup>*</sup>"), "{table}");
    assert_eq!((lines[3][0], lines[3][1]), ("third", "0.0000"), "{table}");
    // Six of the best with the second, six for each of two steps.
    let tests = report.significance().csv();
    assert_eq!(tests.lines().count(), 1 + 6 + 12);
    assert!(tests.contains("MRR,best,second,+0.4020,"), "{tests}");
    assert!(tests.contains("HIT@1,third,best,-0.5000,"), "{tests}");
    let page = report.markdown();
    assert!(
        page.starts_with("# T\n\n| ")
            && page.contains("![shown](f.svg)")
            && page.contains("- p\n")
            && page.contains("## Significance"),
        "{page}"
    );
}

#[test]
fn the_same_runs_are_no_second() {
    let rows = vec![row("best", [0; 20]), row("best again", [0; 20]), row("second", (0..20).map(|user| user % 2))];
    let report = Report {
        title: String::new(),
        protocol: vec![],
        notes: vec![],
        rows,
        columns: Columns::Validation,
        steps: false,
        figures: vec![],
    };
    let table = report.table().csv();
    assert!(table.contains("best,**") && table.contains("second,<u>") && !table.contains("best again,<u>"), "{table}");
    assert!(report.significance().csv().contains("MRR,best,second,+0.2500,"));
}

#[test]
fn costs_are_speeds_and_durations_are_for_the_csv_file_only() {
    let variant = with_base(vec![], |base| base.variant("x", ModelKind::Sesrec, &Changes::default())).unwrap();
    let mut trained = Row::of_runs(&variant, &[record(&dataset(), 1)]).unwrap();
    let report = |trained: &Row| Report {
        title: String::new(),
        protocol: vec![],
        notes: vec![],
        rows: vec![row("popularity", [0; 6]), trained.clone()],
        columns: Columns::Costs,
        steps: false,
        figures: vec![],
    };
    // Stopped before they were measured.
    let numbers = report(&trained).numbers().csv();
    assert!(numbers.contains(",1.5,,1,,,,,,,,7\n"), "{numbers}");
    let costs = trained.costs.as_mut().unwrap();
    costs.samples_per_second = Some(1234.4);
    costs.serving = Some(ServingCost { candidates_per_second: 5e6, cached_user: 6e6 });
    let table = report(&trained).table().markdown();
    assert!(table.contains("| training samples/s | parameters | candidates/s |"), "{table}");
    assert!(table.contains(" 1,234 |          7 |    5,000,000 | ") && table.contains(" 6,000,000 |\n"), "{table}");
    assert!(!table.contains("1.5"), "the run's duration: {table}");
    let numbers = report(&trained).numbers().csv();
    assert!(numbers.contains(",seconds,seconds deviation,best epoch,best epoch deviation,training sam"), "{numbers}");
    assert!(numbers.contains(",1.5,,1,,1234.4,,5000000,,6000000,,7\n"), "{numbers}");
}

#[test]
fn the_speed_of_training_is_measured_and_nothing_is_written() {
    let users = (0..6u32).map(|user| {
        let clicks = [1, 2, 3, 4, 5, 6, 7, 8].map(|n: u32| n + user);
        let searches = [5, 15, 35].map(|time: i64| (time, 1 + user % 3, vec![2 + user]));
        fixture::User { searches: searches.to_vec(), ..fixture::User::clicking(&clicks) }
    });
    let (dataset, directory) = (fixture::dataset(40, 3, users), tempfile::tempdir().unwrap());
    let models = [ModelKind::Stamp, ModelKind::Sesrec];
    let mut variants = with_base(vec![], |base| studies::table2(base, &models)).unwrap();
    for variant in &mut variants {
        (variant.recipe.batch_size, variant.recipe.alignment_negatives) = (4, 3);
    }
    let runner = Runner {
        dataset: &dataset,
        negatives: &EvaluationNegatives::sampled(5, 1),
        device: Device::Cpu,
        store: RunStore::open(directory.path()).unwrap(),
        progress: Progress::Hidden,
        stop: Arc::default(),
    };
    let files = || fs::read_dir(directory.path().join("runs")).unwrap().count();
    let before = files();
    let speeds = runner.training_speeds(&variants, Duration::ZERO).unwrap().unwrap();
    assert_eq!(speeds.len(), 2);
    assert!(speeds.iter().all(|speed| speed.is_finite() && *speed > 0.0), "{speeds:?}");
    assert_eq!(files(), before);
    // Whoever stops an experiment doesn't wait for it.
    runner.stop.store(true, Ordering::Relaxed);
    assert_eq!(runner.training_speeds(&variants, Duration::ZERO).unwrap(), None);
}

#[test]
fn chance_is_not_starred() {
    // One of the two is better for some users, the other for as many but one.
    let rows = [row("a", (0..101u32).map(|user| user % 2)), row("b", (0..101u32).map(|user| (user + 1) % 2))];
    let comparison = Comparison::of(&rows[0], &rows[1], 2);
    assert!((comparison.difference - 1.0 / 101.0).abs() < 1e-12 && !comparison.is_significant());
    assert!(comparison.t.unwrap().p > 0.5 && comparison.wilcoxon.unwrap().p > 0.5);
    let same = Comparison::of(&rows[0], &rows[0], 2);
    assert_eq!((same.t, same.wilcoxon, same.is_significant()), (None, None, false));
}

#[test]
fn a_row_averages_its_seeds_per_user() {
    let dataset = dataset();
    let (mut first, mut second) = (record(&dataset, 1), record(&dataset, 2));
    (first.ranks, second.ranks) = (vec![Rank(0), Rank(3)], vec![Rank(1), Rank(0)]);
    (first.test, second.test) = (Metrics::of([Rank(0), Rank(3)]), Metrics::of([Rank(1), Rank(0)]));
    let variant = with_base(vec![], |base| base.variant("x", ModelKind::Sesrec, &Changes::default())).unwrap();
    let row = Row::of_runs(&variant, &[first, second]).unwrap();
    assert_eq!((row.seeds, row.costs.unwrap().parameters), (2, 7));
    assert_eq!(row.per_user(2), [0.5, 0.5], "HIT@1");
    assert_eq!(row.per_user(5), [0.75, 0.625], "reciprocal rank");
    // Means 0.625 and 0.75: deviation 0.125 / √2.
    assert!((row.metrics[5].mean - 0.6875).abs() < 1e-12);
    assert!((row.metrics[5].deviation.unwrap() - 0.125 / 2f64.sqrt()).abs() < 1e-12);
    assert!(Row::of_runs(&variant, &[]).is_none());
}

/// Hits by three seeds: a user who gained one counts as much as any other who did.
#[test]
fn equal_differences_of_means_are_ties() {
    let dataset = dataset();
    let hits = |by_seed: [[u32; 6]; 3]| {
        let runs: Vec<RunRecord> = (0..)
            .zip(by_seed)
            .map(|(seed, hits)| {
                let ranks = hits.map(|hit| Rank(if hit == 1 { 0 } else { 50 })).to_vec();
                RunRecord { ranks, ..record(&dataset, seed) }
            })
            .collect();
        let variant = with_base(vec![], |base| base.variant("", ModelKind::Sesrec, &Changes::default())).unwrap();
        Row::of_runs(&variant, &runs).unwrap()
    };
    // Three gain a third and have all three then; three lose their only one.
    let before = hits([[1; 6], [1, 1, 1, 0, 0, 0], [0; 6]]);
    let after = hits([[1, 1, 1, 0, 0, 0]; 3]);
    let test = Comparison::of(&after, &before, 2).wilcoxon.unwrap();
    assert_eq!(test.statistic, 10.5, "all have the mean rank 3.5, three are gains");
    assert!((test.p - 1.0).abs() < 1e-12);
}
