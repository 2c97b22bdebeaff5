//! The scripts, and the commands that call them.

use redis::{Cmd, Script};

use super::{
    super::{HistoryOptions, timeline::Side, user_key::UserKey},
    RedisOptions,
};

/// Microseconds; more is as good as for ever, and keeps Redis's own milliseconds in range.
const LONGEST: u128 = 1 << 52;

/// What a user's keys end in, in the scripts' order: version, recommendations, searches, clicks before their searches,
/// index of the event ids.
const KEYS: [&str; 5] = ["m", "r", "s", "c", "i"];

/// The key of one side of a history, by its place among `KEYS` of a script: from 1.
pub(super) fn side_key(side: Side) -> &'static str {
    match side {
        Side::Recommendations => "2",
        Side::Searches => "3",
        Side::Clicks => "4",
    }
}

/// All scripts for a store's bounds and prefix.
pub(super) struct Scripts {
    pub(super) append: Code,
    pub(super) load: Code,
    pub(super) erase: Code,
    prefix: String,
    bounds: [String; 5],
}

/// A script's text and its name in Redis.
pub(super) struct Code {
    text: String,
    hash: String,
}

/// A call that can be sent by the script's hash, or by its text to a server that doesn't know it yet.
pub(super) struct Call<'a> {
    code: &'a Code,
    arguments: Vec<Vec<u8>>,
}

impl Code {
    fn new(own: &str) -> Self {
        let text = format!("{}\n{own}", include_str!("scripts/common.lua"));
        let hash = Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }
}

impl Call<'_> {
    /// Adds an argument of the script's own.
    pub(super) fn arg(mut self, argument: impl Into<Vec<u8>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Tells calls of one user from those of others: its first key.
    pub(super) fn user(&self) -> &[u8] {
        &self.arguments[0]
    }

    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.code.hash)
    }

    /// Teaches the server the script on the way.
    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", &self.code.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(KEYS.len()).arg(&self.arguments);
        command
    }
}

impl Scripts {
    pub(super) fn new(options: &HistoryOptions, redis: &RedisOptions) -> Self {
        // Rounded up: an event is never refused before its time.
        let time_to_live = options.time_to_live.map(|age| age.as_nanos().div_ceil(1000).min(LONGEST));
        Self {
            append: Code::new(include_str!("scripts/append.lua")),
            load: Code::new(include_str!("scripts/load.lua")),
            erase: Code::new(include_str!("scripts/erase.lua")),
            prefix: redis.prefix.clone(),
            bounds: [
                options.max_recommendations.to_string(),
                options.max_searches.to_string(),
                options.max_clicks.to_string(),
                options.max_pending_clicks.to_string(),
                time_to_live.map(|micros| micros.to_string()).unwrap_or_default(),
            ],
        }
    }

    /// A key beside the user's own, for a write that means nothing.
    pub(super) fn mark(&self, user: &UserKey) -> String {
        format!("{}{{{user}}}:w", self.prefix)
    }

    /// A call of one of the scripts for a user. All five keys of a user share a hash tag, and so a slot. `now` is
    /// microseconds, or empty for the server's clock.
    pub(super) fn call<'a>(&self, code: &'a Code, user: &UserKey, now: &str) -> Call<'a> {
        let stem = format!("{}{{{user}}}:", self.prefix);
        let keys = KEYS.iter().map(|key| [stem.as_bytes(), key.as_bytes()].concat());
        let bounds = self.bounds.iter().map(|bound| bound.as_bytes().to_vec());
        Call { code, arguments: keys.chain(bounds).collect() }.arg(now)
    }
}
