//! Who may connect, who may call what, and what callers without credentials get to see.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sesrec::{
    proto::v1::{self, ranking_service_client::RankingServiceClient},
    service::{CertificateFiles, Certificates, ERROR_DOMAIN, NewToken, ReflectionAccess, Right, TlsError, TokenFile},
};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Status,
    service::interceptor::InterceptedService,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt;

use crate::{
    certificates::{Authority, Certified},
    support::{PATIENCE, Setup, TestServer, event, rank_request, recommendation},
};

/// A file with a token for each right, one for all of them, and what the callers send.
struct Tokens {
    path: PathBuf,
    secrets: Vec<String>,
    _directory: tempfile::TempDir,
}

const RIGHTS: [&[Right]; 4] =
    [&[Right::Rank], &[Right::Append], &[Right::Admin], &[Right::Rank, Right::Append, Right::Admin]];

impl Tokens {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (mut text, mut secrets) = (String::new(), vec![]);
        for (n, rights) in RIGHTS.iter().enumerate() {
            let token = NewToken::generate(&format!("caller-{n}"), rights.iter().copied()).unwrap();
            text = token.added_to(&text).unwrap();
            secrets.push(token.secret().to_owned());
        }
        let path = directory.path().join("tokens.toml");
        std::fs::write(&path, text).unwrap();
        Self { path, secrets, _directory: directory }
    }

    fn of(&self, setup: &mut Setup) {
        setup.server.security.tokens = Some(TokenFile::open(&self.path).unwrap().into());
    }
}

type Caller<F> = RankingServiceClient<InterceptedService<Channel, F>>;

/// A client that sends this as `authorization`, or nothing.
fn caller(
    channel: Channel,
    authorization: Option<String>,
) -> Caller<impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone> {
    RankingServiceClient::with_interceptor(channel, move |mut request: Request<()>| {
        if let Some(value) = &authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        Ok(request)
    })
}

/// Every method, called so that it would succeed: its name, the right that it needs, what came of it.
async fn call_all(
    channel: Channel,
    authorization: Option<String>,
) -> Vec<(&'static str, Option<Right>, Result<(), Status>)> {
    let mut client = caller(channel, authorization);
    let append = event("u", "e", 1, recommendation("i1"));
    let of_user = |user_id: String| v1::GetHistoryRequest { user_id, ..Default::default() };
    let stream = match client.append_events(tokio_stream::iter([append.clone()])).await {
        Ok(answers) => answers.into_inner().next().await.unwrap().map(drop),
        Err(status) => Err(status),
    };
    vec![
        ("Rank", Some(Right::Rank), client.rank(rank_request("u", &["i1"])).await.map(drop)),
        ("GetHistory", Some(Right::Rank), client.get_history(of_user("u".into())).await.map(drop)),
        ("AppendEvent", Some(Right::Append), client.append_event(append).await.map(drop)),
        ("AppendEvents", Some(Right::Append), stream),
        (
            "DeleteHistory",
            Some(Right::Admin),
            client.delete_history(v1::DeleteHistoryRequest { user_id: "other".into() }).await.map(drop),
        ),
        ("GetModelInfo", None, client.get_model_info(v1::GetModelInfoRequest {}).await.map(drop)),
    ]
}

async fn reflection(channel: Channel, authorization: Option<String>) -> Result<(), Status> {
    let question = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut request = Request::new(tokio_stream::iter([request]));
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    ServerReflectionClient::new(channel).server_reflection_info(request).await?.into_inner().message().await.map(drop)
}

async fn healthy(channel: Channel) -> bool {
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}

#[tokio::test]
async fn without_a_token_only_health_answers() {
    let tokens = Tokens::new();
    let server = TestServer::with(|setup| tokens.of(setup)).await;
    let channel = server.channel().await;
    let known = &tokens.secrets[3];
    for authorization in [
        None,
        Some("Bearer nonsense".to_owned()),
        Some("Bearer ".to_owned()),
        Some(format!("Basic {known}")),
        Some(format!("Bearer {}", &known[..known.len() - 1])),
        Some(format!("Bearer {known}x")),
        Some(format!("Bearer {}", "x".repeat(4000))),
    ] {
        for (method, _, answer) in call_all(channel.clone(), authorization.clone()).await {
            let status = answer.expect_err(method);
            assert_eq!(status.code(), Code::Unauthenticated, "{method}, {authorization:?}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), ("UNAUTHENTICATED", ERROR_DOMAIN));
            assert!(!format!("{status:?}").contains(known.as_str()));
        }
        assert_eq!(reflection(channel.clone(), authorization).await.unwrap_err().code(), Code::Unauthenticated);
    }
    assert!(healthy(channel.clone()).await);
    let unknown = channel_call(channel, "/sesrec.v1.RankingService/Other").await;
    assert_eq!(unknown.code(), Code::Unauthenticated, "nobody learns what there is");
    assert_eq!(server.store.append_calls() + server.store.load_calls(), 0, "nothing reached the store");
    assert_eq!(server.metric(r#"sesrec_requests_rejected_total{reason="unauthenticated"}"#), 7.0 * 7.0 + 1.0);
    for rpc in ["Rank", "AppendEvents"] {
        let refused = format!(r#"sesrec_requests_total{{rpc="{rpc}",code="UNAUTHENTICATED"}}"#);
        assert_eq!(server.metric(&refused), 7.0, "{rpc}");
    }
}

/// A call of a path that no client was made for.
async fn channel_call(channel: Channel, path: &'static str) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    grpc.unary(Request::new(()), path.parse().unwrap(), codec).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn each_token_has_its_rights_and_no_others() {
    let tokens = Tokens::new();
    let server = TestServer::with(|setup| tokens.of(setup)).await;
    let channel = server.channel().await;
    for (secret, rights) in tokens.secrets.iter().zip(RIGHTS) {
        let bearer = Some(format!("Bearer {secret}"));
        for (method, right, answer) in call_all(channel.clone(), bearer.clone()).await {
            match right {
                Some(right) if !rights.contains(&right) => {
                    let status = answer.expect_err(method);
                    assert_eq!(status.code(), Code::PermissionDenied, "{method} with {rights:?}");
                    let info = status.get_details_error_info().unwrap();
                    assert_eq!(info.reason, "PERMISSION_DENIED");
                    assert_eq!(info.metadata["required_right"], right.to_string());
                }
                _ => answer.unwrap_or_else(|status| panic!("{method} with {rights:?}: {status}")),
            }
        }
        reflection(channel.clone(), bearer).await.unwrap();
    }
}

#[tokio::test]
async fn reflection_is_open_where_the_operator_says_so() {
    let tokens = Tokens::new();
    let server = TestServer::with(|setup| {
        tokens.of(setup);
        setup.server.security.reflection = ReflectionAccess::Public;
    })
    .await;
    reflection(server.channel().await, None).await.unwrap();
    let status = server.client().await.rank(rank_request("u", &["i1"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

/// Files of a server's identity, gone with their directory.
struct Place(tempfile::TempDir);

impl Place {
    fn with(certified: &Certified) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put(certified);
        place
    }

    fn put(&self, Certified { certificate, key }: &Certified) {
        std::fs::write(self.0.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(self.0.path().join("tls.key"), key).unwrap();
    }

    fn open(&self, authority: Option<&str>) -> Result<Arc<Certificates>, TlsError> {
        let [certificate, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| self.0.path().join(name));
        let client_authority = authority.map(|pem| {
            std::fs::write(&ca, pem).unwrap();
            ca
        });
        Certificates::open(CertificateFiles { certificate, key, client_authority }).map(Arc::new)
    }
}

/// Without files: what has been read is enough.
fn tls(certified: &Certified, clients: Option<&Authority>) -> Arc<Certificates> {
    Place::with(certified).open(clients.map(Authority::pem).as_deref()).unwrap()
}

/// A channel over TLS, and whether its first call gets through: a refused certificate shows only then.
async fn over_tls(server: &TestServer, trusted: &Authority, identity: Option<&Certified>) -> Option<Channel> {
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem()));
    if let Some(Certified { certificate, key }) = identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    let url = format!("https://localhost:{}", server.address.port());
    let endpoint = Endpoint::from_shared(url).unwrap().tls_config(config).unwrap();
    let channel = endpoint.connect_timeout(PATIENCE).connect().await.ok()?;
    healthy(channel.clone()).await.then_some(channel)
}

#[tokio::test]
async fn tls_keeps_strangers_out_and_plain_text_too() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tokens = Tokens::new();
    let server = TestServer::with(|setup| {
        tokens.of(setup);
        setup.server.security.tls = Some(tls(&authority.certify(), None));
    })
    .await;
    let channel = over_tls(&server, &authority, None).await.expect("the authority is trusted");
    let bearer = Some(format!("Bearer {}", tokens.secrets[3]));
    for (method, _, answer) in call_all(channel.clone(), bearer).await {
        answer.unwrap_or_else(|status| panic!("{method}: {status}"));
    }
    let status = caller(channel, None).rank(rank_request("u", &["i1"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "TLS alone is no token");
    assert!(over_tls(&server, &stranger, None).await.is_none(), "the caller doesn't trust the server");
    let plain = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
    assert!(!healthy(plain).await, "no answer in plain text");
    // When rcgen's certificates end: in the year 4096.
    assert_eq!(server.metric("sesrec_tls_certificate_expiry_timestamp_seconds"), 67_090_118_400.0);
    assert!(!TestServer::start().await.metrics.encode().contains("sesrec_tls_certificate"), "without TLS none ends");
}

#[tokio::test]
async fn mutual_tls_asks_for_a_certificate() {
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let server = TestServer::with(|setup| {
        setup.server.security.tls = Some(tls(&authority.certify(), Some(&clients)));
    })
    .await;
    let channel = over_tls(&server, &authority, Some(&clients.certify())).await.expect("a known caller");
    RankingServiceClient::new(channel).rank(rank_request("u", &["i1"])).await.unwrap();
    assert!(over_tls(&server, &authority, None).await.is_none(), "no certificate");
    assert!(over_tls(&server, &authority, Some(&stranger.certify())).await.is_none(), "a stranger's");
    assert!(over_tls(&server, &authority, Some(&authority.certify())).await.is_none(), "the server's own authority's");
}

#[test]
fn certificates_that_are_of_no_use_are_refused_at_the_start() {
    let authority = Authority::new();
    let (one, other) = (authority.certify(), authority.certify());
    let refused = |certificate: &str, key: &str, authority: Option<&str>| {
        let place = Place::with(&Certified { certificate: certificate.to_owned(), key: key.to_owned() });
        let error = place.open(authority).err().map(|error| error.to_string())?;
        let name = error.strip_prefix(&format!("{}/", place.0.path().display())).expect("the file's name");
        Some(name.to_owned())
    };
    assert_eq!(refused(&one.certificate, &one.key, None), None);
    let mismatch = refused(&one.certificate, &other.key, None).expect("another certificate's key");
    assert!(mismatch.starts_with("tls.crt: "), "{mismatch}");
    for (name, error) in [
        ("tls.crt: has no certificate", refused("", &one.key, None)),
        ("tls.crt: has no certificate", refused(&one.key, &one.key, None)),
        ("tls.key: has no unencrypted private key", refused(&one.certificate, "", None)),
        ("ca.crt: has no certificate", refused(&one.certificate, &one.key, Some("nothing"))),
    ] {
        assert!(error.as_ref().is_some_and(|error| error.starts_with(name)), "{name}: {error:?}");
    }
    let place = Place::with(&one);
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| place.0.path().join(name));
    let files = format!("CertificateFiles {{ certificate: {certificate:?}, key: {key:?}, client_authority: None }}");
    assert_eq!(format!("{:?}", place.open(None).unwrap()), format!("Certificates {{ files: {files}, .. }}"));
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let place = Place::with(&old.certify());
    let certificates = place.open(None).unwrap();
    let server = TestServer::with(|setup| setup.server.security.tls = Some(certificates.clone())).await;
    let before = over_tls(&server, &old, None).await.expect("the old authority's");
    let end = server.metric("sesrec_tls_certificate_expiry_timestamp_seconds");
    place.put(&new.certify());
    certificates.look();
    server.until("served", || async { over_tls(&server, &new, None).await.is_some() }).await;
    assert_eq!(server.metric("sesrec_tls_certificate_expiry_timestamp_seconds"), end, "it is shown, too");
    let failures = server.metric("sesrec_tls_handshake_failures_total");
    assert!(over_tls(&server, &old, None).await.is_none(), "who trusts the old one only is told the new one");
    server.until("counted", || async { server.metric("sesrec_tls_handshake_failures_total") > failures }).await;
    assert!(healthy(before).await, "a connection that there was goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_holds_nobody_up_and_makes_room() {
    let authority = Authority::new();
    let server = TestServer::with(|setup| {
        setup.server.security.tls = Some(tls(&authority.certify(), None));
        setup.server.max_connections = 2;
        setup.server.keepalive_interval = Duration::from_millis(500);
        setup.server.keepalive_timeout = Duration::from_millis(500);
    })
    .await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let channel = over_tls(&server, &authority, None).await.expect("a place beside the silent one");
    // Both places are taken, until the silent one's patience is over.
    let another = over_tls(&server, &authority, None).await.expect("room");
    assert!(server.metric("sesrec_tls_handshake_failures_total") > 0.0);
    assert!(healthy(channel).await && healthy(another).await);
}
