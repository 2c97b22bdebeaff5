//! What Redis's errors mean.

use redis::{ErrorKind, RedisError};

use super::{super::StoreError, delivery::Verdict};

/// What an error of the Redis at `name` means for a call that may be repeated.
pub(super) fn judge(error: &RedisError, name: &str) -> Verdict {
    let said = || format!("Redis at {name}: {error}");
    let refused = || {
        let why = format!("Redis at {name} refuses the user or password: {error}");
        Verdict::Final(StoreError::Config(why))
    };
    match code(error) {
        Some("NOSCRIPT") => Verdict::SendText,
        Some(
            "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "BUSY" | "UNBLOCKED",
        ) => Verdict::Again(StoreError::Unavailable(said())),
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => refused(),
        // One user's key holds what no script of this program wrote: no outage, and waiting doesn't help.
        Some("WRONGTYPE") => Verdict::Final(StoreError::Corrupt(said())),
        Some("ERR") if error.detail().is_some_and(is_a_scripts_own) => Verdict::Final(StoreError::Corrupt(said())),
        Some(_) => Verdict::Final(StoreError::Unavailable(said())),
        None if error.kind() == ErrorKind::AuthenticationFailed => refused(),
        None => Verdict::Again(StoreError::Unavailable(said())),
    }
}

/// A primary that is one no longer.
pub(super) fn is_demoted(error: &RedisError) -> bool {
    matches!(code(error), Some("READONLY" | "MASTERDOWN" | "UNBLOCKED"))
}

/// What Redis calls the error. Redis 6 calls all within scripts ERR, and has what they are in the text: `…
/// @user_script:5: WRONGTYPE Operation …`, or `… @user_script: 5: -READONLY You can't write …`.
fn code(error: &RedisError) -> Option<&str> {
    let detail = error.detail().filter(|detail| error.code() == Some("ERR") && detail.contains("@user_script"));
    let is_code = |word: &&str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    let words = detail.into_iter().flat_map(|detail| detail.split(' '));
    let wrapped = words.map(|word| word.strip_prefix('-').unwrap_or(word)).find(is_code);
    wrapped.or_else(|| error.code())
}

/// Whether a script stumbled over what it read: errors of Lua, not of a command that it called.
fn is_a_scripts_own(detail: &str) -> bool {
    detail.contains("user_script")
        && ["attempt to ", "bad argument ", "data string too short"].iter().any(|words| detail.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_within_scripts_have_their_codes_in_any_redis() {
        let error = |text: &str| {
            let (code, detail) = text.split_once(' ').expect("a code");
            redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
        };
        for (text, expected, own) in [
            ("READONLY You can't write against a read only replica. script: 1f, on @user_script:5.", "READONLY", false),
            (
                "ERR Error running script (call to f_1f): @user_script:299: @user_script: 299: -NOREPLICAS Not enough good \
                 replicas to write.",
                "NOREPLICAS",
                false,
            ),
            (
                "ERR Error running script (call to f_1f): @user_script:7: WRONGTYPE Operation against a \
                 key holding the wrong kind of value",
                "WRONGTYPE",
                false,
            ),
            (
                "ERR user_script:39: attempt to perform arithmetic on a nil value script: 1f, on @user_script:39.",
                "ERR",
                true,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: 1f, on @user_script:5.",
                "ERR",
                false,
            ),
            ("ERR max number of clients reached", "ERR", false),
        ] {
            let error = error(text);
            assert_eq!(code(&error), Some(expected), "{text}");
            assert_eq!(error.detail().is_some_and(is_a_scripts_own), own, "{text}");
        }
    }
}
