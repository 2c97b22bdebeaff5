//! `sesrec score`: offline ranking, no server.

use std::{
    io::{BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use anyhow::{Context, anyhow, bail};

use super::ndjson::fault;
use crate::{
    data::{Featurized, Featurizer, without_mark},
    domain::{History, RankedItem},
    engine::{Explain, Ranked, order},
    model::{Bundle, RankerOptions, RankingModel, ScoreRequest, UserState},
    nn::DeviceChoice,
    proto::v1,
    service::{
        convert::{HistorySource, RankQuestion, Resolved},
        present::{SeenHistory, ranked_items},
    },
};

/// Requests that are computed together.
const CHUNK_REQUESTS: usize = 64;
/// Candidates from which on a chunk is full.
const CHUNK_CANDIDATES: usize = 1 << 14;
/// The longest line that is read: far above ten thousand candidates with full histories.
const MAX_LINE_BYTES: u64 = 64 << 20;

const ABOUT: &str = "One proto3 JSON sesrec.v1.RankRequest per line on standard input, with its history, \
each side oldest first (here broken in two, to be read):
  {\"userId\":\"u42\",\"candidateItemIds\":[\"i1\",\"i2\"],
   \"history\":{\"recommendations\":[{\"itemId\":\"i7\"}],\"searches\":[]}}
and one RankResponse per line on standard output, in the same order. Ends at the first line that is none, which it \
names; the answers before it are out.

  sesrec score --model BUNDLE < requests.ndjson > responses.ndjson";

/// Options of `sesrec score`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    /// The bundle.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where to compute: auto, cpu or cuda:N.
    #[arg(long, default_value_t, value_name = "DEVICE")]
    device: DeviceChoice,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let bundle = Bundle::read(&args.model)?;
        let device = args.device.open().with_context(|| format!("--device {}", args.device))?;
        let scorer = Scorer {
            ranker: bundle.ranker(&device, RankerOptions::default())?,
            featurizer: Featurizer::new(bundle.catalogue.clone(), bundle.config.limits()),
            model_version: bundle.version.to_string(),
        };
        let mut output = BufWriter::new(std::io::stdout().lock());
        let scored = score(&scorer, BufReader::new(std::io::stdin().lock()), &mut output);
        output.flush().context("standard output")?;
        scored
    })
    .await?
}

struct Scorer {
    ranker: Box<dyn RankingModel>,
    featurizer: Featurizer,
    model_version: String,
}

/// A line, checked and looked up.
struct Question {
    line: u64,
    history: History,
    seen: Featurized,
    resolved: Resolved,
    top_k: usize,
    explain: Explain,
}

/// Answers line by line, in chunks: one RankRequest in, one RankResponse out, both proto3 JSON.
fn score(scorer: &Scorer, mut input: impl BufRead, output: &mut impl Write) -> anyhow::Result<()> {
    let (mut chunk, mut candidates, mut text) = (vec![], 0, String::new());
    for line in 1.. {
        let ended = match scorer.next(&mut input, &mut text, line).with_context(|| format!("line {line}")) {
            Ok(Some(question)) => {
                candidates += question.resolved.rows.len();
                chunk.push(question);
                None
            }
            Ok(None) => text.is_empty().then_some(Ok(())),
            // The lines before it get their answers.
            Err(error) => Some(Err(error)),
        };
        if ended.is_some() || chunk.len() == CHUNK_REQUESTS || candidates >= CHUNK_CANDIDATES {
            for response in scorer.answer(std::mem::take(&mut chunk))? {
                serde_json::to_writer(&mut *output, &response)?;
                output.write_all(b"\n").context("standard output")?;
            }
            candidates = 0;
        }
        if let Some(ended) = ended {
            return ended;
        }
    }
    Ok(())
}

impl Scorer {
    /// The next line's question; none if the line is blank, and at the end, where `text` stays empty.
    fn next(&self, input: &mut impl BufRead, text: &mut String, line: u64) -> anyhow::Result<Option<Question>> {
        text.clear();
        if input.by_ref().take(MAX_LINE_BYTES).read_line(text)? as u64 == MAX_LINE_BYTES {
            bail!("longer than {MAX_LINE_BYTES} bytes");
        }
        if text.trim().is_empty() { Ok(None) } else { self.question(text, line).map(Some) }
    }

    fn question(&self, text: &str, line: u64) -> anyhow::Result<Question> {
        let text = if line == 1 { without_mark(text) } else { text };
        let request: v1::RankRequest = serde_json::from_str(text).map_err(|error| anyhow!(fault(&error)))?;
        // Offline there is no one to protect from long candidate lists.
        let question = RankQuestion::parse(request, usize::MAX, self.featurizer.catalogue())?;
        let RankQuestion { user_id, candidates: resolved, top_k, history, explain, model_version } = question;
        let HistorySource::Inline(history) = history else {
            bail!("history: is required: offline there is no store to take it from (an empty one is {{}})");
        };
        if let Some(version) = model_version.filter(|version| version.as_str() != self.model_version) {
            bail!("model_version: is {version}, but the bundle's is {}", self.model_version);
        }
        let seen = self.featurizer.features(&user_id, &history);
        Ok(Question { line, history, seen, resolved, top_k, explain })
    }

    fn answer(&self, chunk: Vec<Question>) -> anyhow::Result<Vec<v1::RankResponse>> {
        let users: Vec<_> = chunk.iter().map(|question| &*question.seen.features).collect();
        let states = self.ranker.encode(&users)?;
        let pairs = chunk.iter().zip(&states);
        let requests: Vec<_> =
            pairs.map(|(question, state)| ScoreRequest { state, items: &question.resolved.rows }).collect();
        let scores = self.ranker.score(&requests)?;
        let answers = chunk.into_iter().zip(&states).zip(scores);
        answers
            .map(|((question, state), scores)| {
                let line = question.line;
                self.response(question, state, &scores).with_context(|| format!("line {line}"))
            })
            .collect()
    }

    fn response(&self, question: Question, state: &UserState, scores: &[f32]) -> anyhow::Result<v1::RankResponse> {
        let Question { history, seen, resolved, top_k, explain, .. } = question;
        let items = best(scores, top_k)?;
        let explanation = match explain {
            Explain::No => None,
            Explain::Yes => {
                let rows: Vec<u32> = items.iter().map(|item| resolved.rows[item.candidate]).collect();
                Some(self.ranker.explain(state, &rows)?)
            }
        };
        let presented = SeenHistory { history: &history, view: None, seen: &seen, featurizer: &self.featurizer };
        let history_explanation = explanation.as_ref().map(|(weights, _)| presented.explanation(weights));
        let ranked = Ranked { items, explanation, timings: Default::default() };
        Ok(v1::RankResponse {
            items: ranked_items(resolved.ids, &ranked),
            model_version: self.model_version.clone(),
            cold_start: seen.features.is_cold(),
            unknown_item_ids: resolved.unknown.clone(),
            explanation: history_explanation,
            ..v1::RankResponse::default()
        })
    }
}

/// The best `top_k` (0: all) by descending score, ties by request order.
fn best(scores: &[f32], top_k: usize) -> anyhow::Result<Vec<RankedItem>> {
    if let Some(candidate) = scores.iter().position(|score| score.is_nan()) {
        bail!("the model's score of candidate {candidate} is not a number");
    }
    Ok(order(scores, top_k))
}
