//! Users padded to a common length, on the right, in host memory: what becomes tensors.

use std::borrow::Cow;

use super::{HistoryLimits, UserFeatures, UserRow};

/// `users` histories, padded with row 0 to `rec_len` and `src_len` events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryBatch {
    /// The users.
    pub user_rows: Vec<UserRow>,
    /// The moment that is asked about per user `[B]`: see [`UserFeatures::as_of`].
    pub as_of: Vec<Option<i64>>,
    /// Padded recommendation length Lr.
    pub rec_len: usize,
    /// Padded search length Ls.
    pub src_len: usize,
    /// Words per query W.
    pub word_len: usize,
    /// Clicks per search K.
    pub click_len: usize,
    /// Real recommendation events per user `[B]`.
    pub rec_lengths: Vec<usize>,
    /// Real search events per user `[B]`.
    pub src_lengths: Vec<usize>,
    /// Item rows `[B, Lr]`.
    pub rec_items: Vec<u32>,
    /// Query rows `[B, Ls]`.
    pub src_queries: Vec<u32>,
    /// Source rows `[B, Ls]`.
    pub src_sources: Vec<u32>,
    /// How many of the user's recommendation events lie before each search `[B, Ls]`: with it, both sides are one
    /// sequence by time.
    pub src_places: Vec<u32>,
    /// Word rows `[B, Ls, W]`, 0 = none.
    pub src_words: Vec<u32>,
    /// Item rows `[B, Ls, K]`, 0 = none.
    pub src_clicks: Vec<u32>,
}

impl HistoryBatch {
    /// Pads to the longest history of the batch.
    pub fn padded_to_longest<'a>(
        users: impl IntoIterator<Item = &'a UserFeatures> + Clone,
        limits: HistoryLimits,
    ) -> Self {
        let rec_len = users.clone().into_iter().map(|u| u.recommendations.len()).max().unwrap_or(0);
        let src_len = users.clone().into_iter().map(|u| u.searches.len()).max().unwrap_or(0);
        Self::padded_to(users, rec_len, src_len, limits)
    }

    /// Pads to the model's maximal lengths, whatever the batch holds.
    pub fn padded_to_limits<'a>(users: impl IntoIterator<Item = &'a UserFeatures>, limits: HistoryLimits) -> Self {
        Self::padded_to(users, limits.recommendations, limits.searches, limits)
    }

    /// Pads to given lengths.
    ///
    /// # Panics
    /// If a history is longer than the length it is to be padded to.
    pub fn padded_to<'a>(
        users: impl IntoIterator<Item = &'a UserFeatures>,
        rec_len: usize,
        src_len: usize,
        limits: HistoryLimits,
    ) -> Self {
        let mut batch = Self {
            user_rows: vec![],
            as_of: vec![],
            rec_len,
            src_len,
            word_len: limits.words,
            click_len: limits.clicks,
            rec_lengths: vec![],
            src_lengths: vec![],
            rec_items: vec![],
            src_queries: vec![],
            src_sources: vec![],
            src_places: vec![],
            src_words: vec![],
            src_clicks: vec![],
        };
        for user in users {
            assert!(user.recommendations.len() <= rec_len && user.searches.len() <= src_len, "history exceeds padding");
            batch.user_rows.push(user.user);
            batch.as_of.push(user.as_of);
            batch.rec_lengths.push(user.recommendations.len());
            batch.src_lengths.push(user.searches.len());
            batch.rec_items.extend(&user.recommendations);
            for search in &user.searches {
                batch.src_queries.push(search.query);
                batch.src_sources.push(search.source);
                batch.src_places.push(search.place);
                extend_padded(&mut batch.src_words, &search.words, limits.words);
                extend_padded(&mut batch.src_clicks, &search.clicks, limits.clicks);
            }
            let users = batch.user_rows.len();
            batch.rec_items.resize(users * rec_len, 0);
            batch.src_queries.resize(users * src_len, 0);
            batch.src_sources.resize(users * src_len, 0);
            batch.src_places.resize(users * src_len, 0);
            batch.src_words.resize(users * src_len * limits.words, 0);
            batch.src_clicks.resize(users * src_len * limits.clicks, 0);
        }
        batch
    }

    /// Tensors can't have zero positions: a side on which nobody has events gets one padded position.
    pub fn at_least_one_position(&self) -> Cow<'_, Self> {
        if self.rec_len > 0 && self.src_len > 0 {
            return Cow::Borrowed(self);
        }
        let (mut batch, users) = (self.clone(), self.users());
        if batch.rec_len == 0 {
            batch.rec_len = 1;
            batch.rec_items = vec![0; users];
        }
        if batch.src_len == 0 {
            batch.src_len = 1;
            batch.src_queries = vec![0; users];
            batch.src_sources = vec![0; users];
            batch.src_places = vec![0; users];
            batch.src_words = vec![0; users * batch.word_len];
            batch.src_clicks = vec![0; users * batch.click_len];
        }
        Cow::Owned(batch)
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.user_rows.len()
    }
}

fn extend_padded(rows: &mut Vec<u32>, values: &[u32], len: usize) {
    rows.extend(values);
    rows.extend(std::iter::repeat_n(0, len - values.len()));
}
