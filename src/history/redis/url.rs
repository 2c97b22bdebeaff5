//! Where Redis is.
//!
//! | URL | means |
//! |---|---|
//! | `redis://[USER][:PASSWORD]@HOST[:PORT][/DB]` | one server |
//! | `redis+sentinel://[USER][:PASSWORD]@HOST[:PORT][,HOST…]/SERVICE[/DB]` | the primary that the Sentinels name |
//! | `redis+cluster://[USER][:PASSWORD]@HOST[:PORT][,HOST…]` | a Cluster, found from any of these nodes |
//!
//! With `rediss` instead of `redis`: TLS, verified against the system's roots or `RedisOptions::root_certificate`. User
//! and password are percent-encoded, and those of the servers; Sentinels that ask for their own get them by
//! `?sentinel_user=…&sentinel_password=…`.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use super::super::StoreError;

/// A URL, taken apart. It has no `Debug`: it holds a password.
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) tls: Tls,
    /// User, password and database of the servers.
    pub(super) login: RedisConnectionInfo,
    pub(super) hosts: Vec<(String, u16)>,
}

pub(super) enum Kind {
    Server,
    Sentinel { service: String, login: RedisConnectionInfo },
    Cluster,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    Off,
    On,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        // Errors never repeat the URL: it may hold a password.
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("has no ://"))?;
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match base {
            "redis" => Tls::Off,
            "rediss" => Tls::On,
            _ => return Err(wrong("begins with neither redis nor rediss")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let default_port = if kind == "sentinel" { 26379 } else { 6379 };
        let hosts = hosts.split(',').map(|host| parse_host(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        let (kind, database) = match kind {
            "" if hosts.len() == 1 => (Kind::Server, path),
            "" => return Err(wrong("names several hosts: say redis+sentinel:// or redis+cluster://")),
            "sentinel" => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(wrong("lacks the service: redis+sentinel://HOST:PORT/SERVICE"));
                }
                (Kind::Sentinel { service: service.into(), login: sentinel_login(query)? }, database)
            }
            "cluster" if path.trim_matches('/').is_empty() => (Kind::Cluster, ""),
            "cluster" => return Err(wrong("names a database: a Cluster has only one")),
            _ => return Err(wrong("is none of redis://, redis+sentinel://, redis+cluster:// (or rediss…)")),
        };
        if !query.is_empty() && !matches!(kind, Kind::Sentinel { .. }) {
            return Err(wrong("has parameters after ?: only Sentinel URLs may"));
        }
        Ok(Self { kind, tls, login: login(credentials, database)?, hosts })
    }

    /// The server's address, with its login.
    pub(super) fn connection(&self, host: &(String, u16)) -> Result<ConnectionInfo, StoreError> {
        let (host, port) = host.clone();
        let address = match self.tls {
            Tls::Off => ConnectionAddr::Tcp(host, port),
            Tls::On => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = address.into_connection_info().map_err(|_| wrong("names no server"))?;
        Ok(info.set_redis_settings(self.login.clone()))
    }

    /// Hosts and ports, for logs.
    pub(super) fn display(&self) -> String {
        self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(",")
    }
}

fn wrong(what: &str) -> StoreError {
    StoreError::Config(format!("the Redis URL {what}"))
}

fn parse_host(host: &str, default_port: u16) -> Result<(String, u16), StoreError> {
    let (name, port) = match host.rsplit_once(':') {
        // An IPv6 address without a port: [::1]
        Some((_, port)) if port.ends_with(']') => (host, None),
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| wrong(&format!("has a port that is no number: {port:?}")))?,
        None => default_port,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() {
        return Err(wrong("has an empty host"));
    }
    Ok((name.into(), port))
}

/// Percent-decoding and all, by the client library's own parser.
fn login(credentials: &str, database: &str) -> Result<RedisConnectionInfo, StoreError> {
    let at = if credentials.is_empty() { "" } else { "@" };
    let info = format!("redis://{credentials}{at}host/{database}").into_connection_info();
    Ok(info.map_err(|_| wrong("has a user, password or database that can't be read"))?.redis_settings().clone())
}

fn sentinel_login(query: &str) -> Result<RedisConnectionInfo, StoreError> {
    let (mut user, mut password) = ("", "");
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sentinel_user", value)) => user = value,
            Some(("sentinel_password", value)) => password = value,
            _ => return Err(wrong("has parameters other than sentinel_user and sentinel_password")),
        }
    }
    if user.is_empty() && password.is_empty() {
        return Ok(RedisConnectionInfo::default());
    }
    login(&format!("{user}:{password}"), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("rediss://me:p%40ss@db.example:7000/3").ok().unwrap();
        assert!(matches!(target.kind, Kind::Server) && target.tls == Tls::On);
        assert_eq!(target.hosts, [("db.example".to_owned(), 7000)]);
        assert_eq!((target.login.username(), target.login.password()), (Some("me"), Some("p@ss")));
        assert_eq!(target.login.db(), 3);

        let sentinel = "redis+sentinel://:secret@a,b:1,[::1]:2/main/1?sentinel_password=other";
        let target = Target::parse(sentinel).ok().unwrap();
        let Kind::Sentinel { service, login } = &target.kind else { panic!("is a Sentinel URL") };
        assert_eq!((service.as_str(), login.password()), ("main", Some("other")));
        assert_eq!(target.hosts, [("a".to_owned(), 26379), ("b".to_owned(), 1), ("::1".to_owned(), 2)]);
        assert_eq!((target.login.password(), target.login.db()), (Some("secret"), 1));

        let target = Target::parse("redis+cluster://a:1,b").ok().unwrap();
        assert!(matches!(target.kind, Kind::Cluster));
        assert_eq!(target.display(), "a:1,b:6379");
    }

    #[test]
    fn errors_say_what_is_wrong_and_keep_the_password() {
        for url in [
            "redis://:hunter2@a,b",
            "redis://:hunter2@",
            "redis://:hunter2@a:port",
            "redis://:hunter2@a/db",
            "redis+sentinel://:hunter2@a",
            "redis+cluster://:hunter2@a/1",
            "redis+other://:hunter2@a",
            "http://:hunter2@a",
            "redis://:hunter2@a?x=y",
        ] {
            let error = Target::parse(url).err().unwrap_or_else(|| panic!("{url} is wrong")).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
