//! `sesrec evaluate --via-server`: the ranks of the offline evaluation, one by one.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use crate::{
    program::{self, Running, errors},
    world::{World, fresh, import, world},
};

/// A server over the world's bundle, with an empty store. Killed when dropped.
struct Serving {
    _process: Running,
    address: String,
}

impl Serving {
    fn start(world: &World, flags: &[&str]) -> Self {
        let mut command = program::sesrec();
        command.args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--store", "memory"]);
        command.args(["--default-timeout", "60s", "--model"]).arg(&world.bundle).args(flags).stderr(Stdio::piped());
        let mut process = Running::start(&mut command);
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut line, mut printed) = (String::new(), String::new());
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "never listened: {printed}");
            printed.push_str(&line);
            if let Some((_, address)) = line.split_once("127.0.0.1:") {
                break address.chars().take_while(char::is_ascii_digit).collect::<String>();
            }
        };
        // What comes later has to be read too, or the server would wait for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { _process: process, address: format!("127.0.0.1:{address}") }
    }
}

fn evaluate(data: &Path, json: &Path, flags: &[&str]) -> Output {
    let mut command = program::sesrec();
    command.args(["evaluate", "--quiet", "--data"]).arg(data).arg("--json").arg(json).args(flags);
    command.output().unwrap()
}

fn result(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The world's logs with all times rounded down to ten minutes, so that searches and clicks of one time abound, also at
/// the time of a target: only clicks before it in the log, and only searches of an earlier time may be seen.
fn logs_full_of_ties(dir: &Path) -> PathBuf {
    let logs = dir.join("logs");
    fs::create_dir_all(&logs).unwrap();
    for entry in fs::read_dir(&world().logs).unwrap() {
        let path = entry.unwrap().path();
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let mut writer = csv::Writer::from_path(logs.join(path.file_name().unwrap())).unwrap();
        let header = reader.headers().unwrap().clone();
        writer.write_record(&header).unwrap();
        for row in reader.records() {
            let row = row.unwrap();
            let rounded = row.iter().zip(&header).map(|(cell, name)| match cell.parse::<i64>() {
                Ok(time) if name.ends_with("timestamp") => (time - time % 600_000).to_string(),
                _ => cell.to_owned(),
            });
            let rounded: csv::StringRecord = rounded.collect();
            writer.write_record(&rounded).unwrap();
        }
        writer.flush().unwrap();
    }
    logs
}

#[test]
fn every_rank_through_a_server_is_that_of_the_offline_evaluation() {
    let world = world();
    let dir = fresh("replay");
    let data = dir.join("data");
    import(&logs_full_of_ties(&dir), &data);
    let bundle = world.bundle.to_str().unwrap();
    let [offline, online] = ["offline.json", "online.json"].map(|name| dir.join(name));
    let output = evaluate(&data, &offline, &["--model", bundle]);
    assert!(output.status.success(), "{}", errors(&output));
    // The bundle has learned from the logs as they were: nobody knows what of these it has seen.
    assert!(errors(&output).contains("trained on another data set"), "{}", errors(&output));
    assert!(result(&offline)["learned"].is_null());

    let server = Serving::start(world, &["--time-to-live", "0s"]);
    let flags = ["--via-server", &server.address, "--model", bundle];
    let served = evaluate(&data, &online, &flags);
    assert!(served.status.success(), "{}", errors(&served));
    let (expected, found) = (result(&offline), result(&online));
    assert!(expected["ranks"].as_object().unwrap().len() > 150);
    for key in ["ranks", "metrics", "model", "model_version", "data_checksum", "learned"] {
        assert_eq!(expected[key], found[key], "{key}");
    }
    assert_eq!(found["via_server"], server.address.as_str());
    assert_eq!(served.stdout, output.stdout, "the same table");

    // Once more, everything is known to the server already.
    let again = evaluate(&data, &online, &flags);
    assert!(again.status.success(), "{}", errors(&again));
    assert_eq!(result(&online)["ranks"], expected["ranks"]);

    // What the server knows by now lies after the validation targets: they can't be evaluated here any more.
    let output = evaluate(&data, &online, &["--via-server", &server.address, "--split", "validation"]);
    let message = errors(&output);
    assert!(!output.status.success() && message.contains("not before the target"), "{message}");
    assert!(message.contains("user \""), "{message}");
    // Nor can another bundle.
    let output = evaluate(&data, &online, &["--via-server", &server.address, "--model", world.stamp.to_str().unwrap()]);
    assert!(!output.status.success() && errors(&output).contains("--model is"), "{}", errors(&output));
}

#[test]
fn a_server_that_forgets_old_events_is_told_so() {
    let server = Serving::start(world(), &[]);
    let output = evaluate(&world().data, &fresh("old").join("online.json"), &["--via-server", &server.address]);
    let message = errors(&output);
    assert!(!output.status.success() && message.contains("--time-to-live 0s"), "{message}");
}
