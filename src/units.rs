//! Durations, sizes and shares as flags and configuration files spell them.

use std::time::Duration;

/// "250us", "2ms", "1s", "1m 30s"; also "365d": days of 24 hours.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    // Calendars have longer and shorter days, so the parser below refuses them.
    let days = text.trim().strip_suffix('d').map(str::trim_end);
    if let Some(days) = days.filter(|days| !days.is_empty() && days.bytes().all(|byte| byte.is_ascii_digit())) {
        let seconds = days.parse::<u64>().ok().and_then(|days| days.checked_mul(DAY_SECONDS));
        // What the signed seconds of all other durations hold.
        return seconds
            .filter(|&seconds| i64::try_from(seconds).is_ok())
            .map(Duration::from_secs)
            .ok_or_else(|| format!("{text} is too long"));
    }
    let duration: jiff::SignedDuration =
        text.parse().map_err(|error| format!("{error}; write e.g. 250us, 2ms, 30s, 365d"))?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

/// "1048576", "64KiB", "512MiB", "2GiB".
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        unit => return Err(format!("{unit:?} is none of: B, KiB, MiB, GiB, TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; write e.g. 512MiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"))
}

/// A number of things, at least one. More than 2^32 - 1 is no number of anything here, and semaphores panic for some.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count as usize),
        Err(error) => Err(format!("{error}; from 1 to {}", u32::MAX)),
    }
}

/// As [`parse_duration`], for what takes some time.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        time => Ok(time),
    }
}

/// A number from 0 to 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be between 0 and 1".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_and_shares() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("77"), Ok(77));
        for bad in ["", "MiB", "1MB", "99999999TiB", "-1"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("365d"), parse_duration("8760h"));
        assert_eq!(parse_duration("1 d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "-1s", "soon", "d", "-1d", "1.5d", "99999999999999999999d", "200000000000000d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_time("1s"), parse_count("7")), (Ok(Duration::from_secs(1)), Ok(7)));
        assert!(parse_time("0s").is_err() && parse_count("0").is_err() && parse_count("-1").is_err());
        assert_eq!(parse_share("0.25"), Ok(0.25));
        for wrong in ["-0.1", "1.1", "NaN", "x"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
