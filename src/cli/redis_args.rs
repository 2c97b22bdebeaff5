//! How Redis is used: flags of every command that opens a store.

use std::time::Duration;

use clap::Args;

use super::pem::{self, Pem};
use crate::{history::RedisOptions, units::parse_duration};

/// Options about Redis; they count where `--store` names one.
#[derive(Debug, Clone, Args)]
pub struct RedisArgs {
    /// Begins every key: services that share a Redis need prefixes of their own. Other prefix, other histories.
    #[arg(long, default_value = "sesrec:", value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    redis_prefix: String,
    /// Connections to the server, each shared by any number of requests; a Cluster has one per node, whatever this
    /// says.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    redis_connections: u16,
    /// How long making a connection may take.
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "DURATION")]
    redis_connect_timeout: Duration,
    /// How long a call is tried again after a broken connection or during a failover, within --store-timeout.
    #[arg(long, default_value = "250ms", value_parser = parse_duration, value_name = "DURATION")]
    redis_retry_for: Duration,
    /// Replicas that must have an event before it is acknowledged. With all that Sentinel may promote, a failover loses
    /// nothing; with fewer, what the promoted one lacks; with none, the last moments. While there are fewer, appends
    /// are UNAVAILABLE. Not for a Cluster.
    #[arg(long, default_value_t = 0, value_name = "N")]
    redis_wait: u32,
    /// PEM file with the certificates to trust, in place of the system's: for rediss:// with an authority of your own.
    #[arg(long, value_parser = pem::certificates, value_name = "FILE")]
    redis_root_certificate: Option<Pem>,
}

impl RedisArgs {
    /// As the store wants them.
    pub(super) fn options(&self) -> RedisOptions {
        RedisOptions {
            prefix: self.redis_prefix.clone(),
            connections: self.redis_connections.into(),
            connect_timeout: self.redis_connect_timeout,
            retry_for: self.redis_retry_for,
            wait: self.redis_wait,
            root_certificate: self.redis_root_certificate.clone().map(|Pem(pem)| pem),
            clock: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn parse(args: &[&str]) -> Result<RedisOptions, String> {
        let command = RedisArgs::augment_args(Command::new("x"));
        let matches = command.try_get_matches_from([&["x"], args].concat()).map_err(|error| error.to_string())?;
        Ok(RedisArgs::from_arg_matches(&matches).expect("parsed").options())
    }

    #[test]
    fn flags_become_options() {
        assert_eq!(format!("{:?}", parse(&[]).unwrap()), format!("{:?}", RedisOptions::default()));

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, pem).unwrap();
        let path = path.to_str().unwrap();
        let words = format!(
            "--redis-prefix shop: --redis-connections 5 --redis-connect-timeout 3s --redis-retry-for 1s \
             --redis-wait 2 --redis-root-certificate {path}"
        );
        let options = parse(&words.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!((options.prefix.as_str(), options.connections), ("shop:", 5));
        assert_eq!((options.connect_timeout, options.retry_for), (Duration::from_secs(3), Duration::from_secs(1)));
        assert_eq!(options.wait, 2);
        assert_eq!(options.root_certificate.as_deref(), Some(pem.as_bytes()));

        std::fs::write(path, "no certificate").unwrap();
        assert!(parse(&["--redis-root-certificate", path]).unwrap_err().contains("no certificate in PEM"));
        for wrong in [["--redis-prefix", ""], ["--redis-connections", "0"], ["--redis-root-certificate", "absent"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
