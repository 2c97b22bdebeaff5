//! Calls on their way to an answer: sent in order, and again as long as what keeps them may pass.

use std::collections::HashSet;

use redis::{Pipeline, Value};

use super::{super::StoreError, scripts::Call};

/// What an error means for a call that may be repeated.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// It is the answer.
    Final(StoreError),
    /// It may pass.
    Again(StoreError),
    /// The server has forgotten the script.
    SendText,
}

/// Calls of one pipeline, which takes several attempts where some have to be sent again.
pub(super) struct Delivery<'c, 'u> {
    pending: Vec<Pending<'c, 'u>>,
    /// The first of an attempt teaches the server the script, the others follow on the same connection.
    by_text_first: bool,
    /// How many are sent at a time.
    width: usize,
}

struct Pending<'c, 'u> {
    call: &'c Call<'u>,
    answer: Option<Result<Value, StoreError>>,
    /// What it answered when it was carried out, but too few replicas had it: repeated, it may have another answer.
    first: Option<Value>,
    /// Why there is no answer yet.
    last: StoreError,
}

impl<'c, 'u> Delivery<'c, 'u> {
    /// Nothing sent yet.
    pub(super) fn of(calls: &'c [Call<'u>]) -> Self {
        let pending = |call| Pending { call, answer: None, first: None, last: StoreError::Deadline };
        Self {
            // A server that has forgotten the script may be taught it by another connection in the middle of this
            // pipeline: a user's first event would be refused and tried again after the second. The text costs 10 kB
            // and a hash of it.
            by_text_first: repeats_a_user(calls),
            pending: calls.iter().map(pending).collect(),
            width: usize::MAX,
        }
    }

    /// The calls without an answer, by number, and the commands for them; `None` when there are none.
    pub(super) fn next_pipeline(&self) -> Option<(Vec<usize>, Pipeline)> {
        let open = self.pending.iter().enumerate().filter(|(_, pending)| pending.answer.is_none());
        let sent: Vec<usize> = open.map(|(number, _)| number).take(self.width).collect();
        let mut pipeline = Pipeline::with_capacity(sent.len());
        for (place, &number) in sent.iter().enumerate() {
            let call = self.pending[number].call;
            pipeline.add_command(if self.by_text_first && place == 0 { call.by_text() } else { call.by_hash() });
        }
        (!sent.is_empty()).then_some((sent, pipeline))
    }

    /// The pipeline as a whole failed; returns what [`received`](Self::received) does.
    pub(super) fn failed(&mut self, sent: &[usize], verdict: &Verdict) -> bool {
        self.received(sent, sent.iter().map(|_| Err(verdict.clone())), &Ok(()))
    }

    /// Takes answers in. Whether it is worth sending the rest at once: something was answered, or the script's text
    /// goes along now; to learn that a script is unknown is worth it, but only the first time.
    pub(super) fn received(
        &mut self,
        sent: &[usize],
        received: impl Iterator<Item = Result<Value, Verdict>>,
        replicated: &Result<(), StoreError>,
    ) -> bool {
        let mut progress = false;
        for (&number, answer) in sent.iter().zip(received) {
            let pending = &mut self.pending[number];
            match (answer, replicated) {
                (Ok(value), Ok(())) => {
                    pending.answer = Some(Ok(pending.first.take().unwrap_or(value)));
                    progress = true;
                }
                (Ok(value), Err(error)) => {
                    pending.first.get_or_insert(value);
                    pending.last = error.clone();
                }
                (Err(Verdict::Final(error)), _) => {
                    pending.answer = Some(Err(error));
                    progress = true;
                }
                (Err(Verdict::Again(error)), _) => pending.last = error,
                (Err(Verdict::SendText), replicated) => {
                    if let Err(error) = replicated {
                        pending.last = error.clone();
                    }
                    progress |= !std::mem::replace(&mut self.by_text_first, true);
                }
            }
        }
        progress
    }

    /// From now on each is sent alone.
    pub(super) fn one_by_one(&mut self) {
        self.width = 1;
    }

    /// Whether every call has its answer.
    pub(super) fn is_done(&self) -> bool {
        self.pending.iter().all(|pending| pending.answer.is_some())
    }

    /// In the calls' order; of those without one, what kept them.
    pub(super) fn answers(self) -> Vec<Result<Value, StoreError>> {
        self.pending.into_iter().map(|pending| pending.answer.unwrap_or(Err(pending.last))).collect()
    }
}

fn repeats_a_user(calls: &[Call<'_>]) -> bool {
    let mut users = HashSet::with_capacity(calls.len());
    calls.len() > 1 && !calls.iter().all(|call| users.insert(call.user()))
}

#[cfg(test)]
mod tests {
    use super::{super::scripts::Scripts, *};
    use crate::{
        domain::UserId,
        history::{HistoryOptions, RedisOptions, user_key::UserKey},
    };

    #[test]
    fn a_repetition_for_replicas_keeps_the_first_answer() {
        let scripts = Scripts::new(&HistoryOptions::default(), &RedisOptions::default());
        let user = UserKey::of(&UserId::new("u").unwrap());
        let calls = [scripts.call(&scripts.append, &user, "")];
        let mut delivery = Delivery::of(&calls);
        let too_few = Err(StoreError::Unavailable("too few replicas".into()));
        for answer in [1, 2] {
            let (sent, _) = delivery.next_pipeline().unwrap();
            assert!(!delivery.received(&sent, std::iter::once(Ok(Value::Int(answer))), &too_few));
            assert!(!delivery.is_done());
        }
        let (sent, _) = delivery.next_pipeline().unwrap();
        assert!(delivery.received(&sent, std::iter::once(Ok(Value::Int(3))), &Ok(())));
        assert!(delivery.is_done());
        assert!(matches!(delivery.answers()[..], [Ok(Value::Int(1))]));
    }
}
