//! Callers that send garbage, too much, too slowly, or nothing: they get errors or lose their connection, and nobody
//! else notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::stream;
use http_body_util::StreamBody;
use proptest::{
    prelude::prop,
    test_runner::{Config, TestRunner},
};
use prost::{Message, bytes::Bytes};
use sesrec::proto::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    body::Body,
    client::Grpc,
    codegen::{Service, http},
    transport::Channel,
};

use crate::{
    damage::damaged,
    raw::Raw,
    support::{PATIENCE, Setup, TestServer, event, ids, rank_request, recommendation, search},
};

const SERVICE: &str = "/sesrec.v1.RankingService/";
const UNARY: [&str; 5] = ["Rank", "AppendEvent", "GetHistory", "DeleteHistory", "GetModelInfo"];

/// A caller like any other, who must not notice anything.
struct Bystander {
    stop: CancellationToken,
    answers: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Bystander {
    async fn of(server: &TestServer) -> Self {
        let (stop, answers) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let mut client = server.client().await;
        let task = tokio::spawn({
            let (stop, answers) = (stop.clone(), answers.clone());
            async move {
                while !stop.is_cancelled() {
                    let answer = client.rank(rank_request("bystander", &["i1", "i2"])).await.expect("an answer");
                    assert_eq!(ids(&answer.into_inner().items), ["i2", "i1"]);
                    answers.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        Self { stop, answers, task }
    }

    async fn noticed_nothing(self) {
        self.stop.cancel();
        self.task.await.expect("every answer was as usual");
        assert!(self.answers.load(Ordering::Relaxed) > 0);
    }
}

async fn call(channel: &Channel, method: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("{SERVICE}{method}").parse().unwrap();
    grpc.unary(Request::new(message), path, Raw).await.map(tonic::Response::into_inner)
}

/// All messages on one stream; what it answered.
async fn call_stream(channel: &Channel, messages: Vec<Vec<u8>>) -> Result<usize, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("{SERVICE}AppendEvents").parse().unwrap();
    let mut answers = grpc.streaming(Request::new(stream::iter(messages)), path, Raw).await?.into_inner();
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        answer?;
        count += 1;
    }
    Ok(count)
}

/// Whatever comes back must be an answer to a wrong request, not a sign of a bug.
fn no_bug(method: &str, message: &[u8], status: &Status) {
    let bug = ["internal error", "the model failed", "panicked"].iter().any(|text| status.message().contains(text));
    assert!(!bug, "{method} with {message:02x?}: {status:?}");
    let expected = matches!(
        status.code(),
        // Of bytes that are no message, tonic says INTERNAL.
        Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists | Code::Internal | Code::OutOfRange
    );
    assert!(expected, "{method} with {message:02x?}: {status:?}");
}

/// Messages that would be taken, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let history = v1::History {
        recommendations: vec![v1::Recommendation { item_id: "i3".into() }],
        searches: vec![v1::Search { search_id: "s".into(), source: "search_box".into(), ..Default::default() }],
    };
    let rank = v1::RankRequest { history: Some(history), explain: true, top_k: 2, ..rank_request("u", &["i1", "i2"]) };
    vec![
        rank.encode_to_vec(),
        event("u", "e", 1, recommendation("i1")).encode_to_vec(),
        event("u", "f", 1, search("s", "red shoes", &["i1"])).encode_to_vec(),
        v1::GetHistoryRequest { user_id: "u".into(), history_token: "h1-1".into() }.encode_to_vec(),
    ]
}

#[test]
fn random_messages_to_every_method() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::start());
    let (channel, bystander) = runtime.block_on(async { (server.channel().await, Bystander::of(&server).await) });
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let messages = prop::collection::vec(damaged(seeds()), 1..8);
    let outcome = runner.run(&messages, |messages| {
        runtime.block_on(async {
            for method in UNARY {
                for message in &messages {
                    if let Err(status) = call(&channel, method, message.clone()).await {
                        no_bug(method, message, &status);
                    }
                }
            }
            match call_stream(&channel, messages.clone()).await {
                Ok(answers) => assert_eq!(answers, messages.len(), "an acknowledgement for each"),
                Err(status) => no_bug("AppendEvents", &messages.concat(), &status),
            }
        });
        Ok(())
    });
    outcome.unwrap();
    runtime.block_on(bystander.noticed_nothing());
}

/// Short limits on silence, so that tests needn't wait for half a minute.
fn impatient(setup: &mut Setup) {
    setup.server.keepalive_interval = Duration::from_secs(1);
    setup.server.keepalive_timeout = Duration::from_secs(1);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A frame's header: length, type, flags, stream.
fn frame(length: u32, kind: u8, flags: u8, stream: u8) -> Vec<u8> {
    let [_, a, b, c] = length.to_be_bytes();
    vec![a, b, c, kind, flags, 0, 0, 0, stream]
}

/// Whether the server hangs up on this.
async fn hangs_up(server: &TestServer, bytes: &[u8]) -> bool {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    // It may hang up while this is being written.
    let _ = socket.write_all(bytes).await;
    let mut rest = vec![];
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silence_lose_their_connection() {
    let server = TestServer::with(impatient).await;
    let bystander = Bystander::of(&server).await;
    let noise: Vec<u8> = (0..65_536_u32).map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[0]).collect();
    let after_preface = |bytes: &[u8]| [PREFACE, SETTINGS, bytes].concat();
    let cases: [(&str, Vec<u8>); 9] = [
        ("nothing", vec![]),
        ("noise", noise.clone()),
        ("HTTP/1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("half a preface", PREFACE[..11].to_vec()),
        ("a preface and silence", PREFACE.to_vec()),
        ("noise after the preface", after_preface(&noise)),
        ("a frame of 16 MB", after_preface(&frame(0xff_ff_ff, 0, 0, 1))),
        ("headers that are none", after_preface(&[frame(8, 1, 4, 1), vec![0xff; 8]].concat())),
        ("a header that never ends", after_preface(&frame(16_000, 1, 0, 1))),
    ];
    let attempts = cases.iter().map(async |(what, bytes)| assert!(hangs_up(&server, bytes).await, "{what}"));
    futures::future::join_all(attempts).await;
    bystander.noticed_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_at_a_time_is_not_for_ever() {
    let server = TestServer::with(impatient).await;
    let bystander = Bystander::of(&server).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let endless = [PREFACE, SETTINGS, &frame(16_000, 1, 0, 1)].concat().into_iter().chain(std::iter::repeat(0));
    let dribbling = async {
        for byte in endless {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut rest = vec![];
    let ended = async {
        tokio::select! { () = dribbling => {}, _ = reader.read_to_end(&mut rest) => {} }
    };
    assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "it goes on for ever");
    bystander.noticed_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_callers_make_room_for_others() {
    let server = TestServer::with(|setup| {
        impatient(setup);
        setup.server.max_connections = 3;
    })
    .await;
    let (started, mut silent) = (Instant::now(), vec![]);
    for _ in 0..3 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let ranked = async { server.client().await.rank(rank_request("u", &["i1"])).await };
    tokio::time::timeout(PATIENCE, ranked).await.expect("room").unwrap();
    assert!(started.elapsed() > Duration::from_millis(500), "the limit holds until somebody leaves");
}

/// A request whose body comes in pieces, with a pause before each.
async fn slow_body(channel: &mut Channel, method: &str, pieces: Vec<Vec<u8>>, pause: Duration) -> http::Response<Body> {
    let pieces = stream::unfold(pieces.into_iter(), move |mut pieces| async move {
        let piece = pieces.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Status>(http_body::Frame::data(Bytes::from(piece))), pieces))
    });
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    channel.call(request(method, Body::new(StreamBody::new(pieces)))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_body_meets_its_deadline() {
    let server = TestServer::with(|setup| setup.service.timeouts.default = Duration::from_secs(2)).await;
    let bystander = Bystander::of(&server).await;
    let message = rank_request("u", &["i1"]).encode_to_vec();
    let framed = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let bytes: Vec<Vec<u8>> = framed.iter().map(|&byte| vec![byte]).collect();
    let mut channel = server.channel().await;
    let started = Instant::now();
    let answer = slow_body(&mut channel, "Rank", bytes.clone(), Duration::from_secs(1)).await;
    let code = answer.headers().get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
    assert_eq!(code.as_deref(), Some("4"), "DEADLINE_EXCEEDED");
    assert!(started.elapsed() < Duration::from_secs(bytes.len() as u64), "not after the body");
    // The same body in time.
    let answer = slow_body(&mut channel, "Rank", bytes, Duration::from_millis(1)).await;
    assert!(answer.headers().get("grpc-status").is_none());
    let in_flight = || server.metric(r#"sesrec_requests_in_flight{rpc="Rank"}"#);
    server.until("at most the bystander's", || async { in_flight() <= 1.0 }).await;
    bystander.noticed_nothing().await;
}

/// A message of one field that nobody knows, `missing` bytes short of what it says, and no end.
fn begun(length: u32, missing: usize) -> Body {
    let mut message = vec![];
    prost::encoding::bytes::encode(1000, &vec![0; length as usize - 5], &mut message);
    assert_eq!(message.len(), length as usize);
    let piece = [&[0][..], &length.to_be_bytes(), &message[..message.len() - missing]].concat();
    let frame = Ok::<_, Status>(http_body::Frame::data(Bytes::from(piece)));
    Body::new(StreamBody::new(stream::iter([frame]).chain(stream::pending())))
}

fn request<B>(method: &str, body: B) -> http::Request<B> {
    let request = http::Request::post(format!("http://x{SERVICE}{method}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_are_bounded_and_end_in_time() {
    let server = TestServer::with(|setup| {
        setup.server.max_message_bytes = 1 << 20;
        setup.service.timeouts.message = Duration::from_millis(500);
        setup.service.timeouts.default = Duration::from_secs(60);
    })
    .await;
    let bystander = Bystander::of(&server).await;
    // Sixteen of the largest are what may be half-received. Whole messages of requests that don't end are no better.
    let callers = (0..40).map(|n| {
        let (method, length, missing) =
            if n < 4 { ("AppendEvents", 200_000, 1) } else { ("Rank", 1 << 20, [0, 1][n % 2]) };
        let channel = server.channel();
        async move {
            let mut channel = channel.await;
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let answer = channel.call(request(method, begun(length, missing))).await.unwrap();
            let status = Status::from_header_map(answer.headers());
            // A stream that has begun tells it at its end.
            match status {
                Some(status) => status.code(),
                None => {
                    let trailers = http_body_util::BodyExt::collect(answer.into_body()).await;
                    let trailers = trailers.map(|body| body.trailers().cloned().unwrap_or_default());
                    trailers.map_or_else(|status| status.code(), |t| Status::from_header_map(&t).unwrap().code())
                }
            }
        }
    });
    let codes = tokio::time::timeout(PATIENCE, futures::future::join_all(callers)).await.expect("all end");
    let count = |code: Code| codes.iter().filter(|&&found| found == code).count();
    assert!(count(Code::ResourceExhausted) >= 20, "{codes:?}");
    assert!(count(Code::DeadlineExceeded) >= 10, "{codes:?}");
    assert_eq!(count(Code::ResourceExhausted) + count(Code::DeadlineExceeded), 40, "{codes:?}");
    assert!(server.metric(r#"sesrec_requests_rejected_total{reason="unfinished"}"#) >= 20.0);
    bystander.noticed_nothing().await;
}

/// On one connection, as of a proxy: streams that send and don't read, and a request of somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_read_nothing_leave_room_for_others() {
    let server = TestServer::with(|setup| setup.service.timeouts.unread = Duration::from_secs(1)).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    // No answer's message may be sent.
    let (mut connection, driver) = h2::client::Builder::new().initial_window_size(0).handshake(socket).await.unwrap();
    tokio::spawn(driver);
    let event = v1::AppendEventRequest::encode_to_vec(&event("u", "a", 1, recommendation("i1")));
    let framed = [&[0][..], &u32::try_from(event.len()).unwrap().to_be_bytes(), &event].concat();
    let piece = Bytes::from(framed.repeat(100));
    for _ in 0..24 {
        connection = connection.ready().await.unwrap();
        let (_, mut stream) = connection.send_request(request("AppendEvents", ()), false).unwrap();
        let piece = piece.clone();
        tokio::spawn(async move {
            loop {
                stream.reserve_capacity(piece.len());
                while stream.capacity() < piece.len() {
                    match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                        Some(Ok(_)) => {}
                        _ => return,
                    }
                }
                stream.send_data(piece.clone(), false).unwrap();
            }
        });
    }
    // They have filled the connection's window by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, mut stream) = connection.ready().await.unwrap().send_request(request("Rank", ()), false).unwrap();
    stream.reserve_capacity(100);
    let room = async {
        while stream.capacity() < 100 {
            std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, room).await.expect("room for a request");
    let ended = || server.metric(r#"sesrec_requests_total{rpc="AppendEvents",code="ABORTED"}"#) >= 1.0;
    server.until("streams end that nobody reads", || async { ended() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused() {
    let server = TestServer::start().await;
    let bystander = Bystander::of(&server).await;
    let channel = server.channel().await;
    // Headers of a megabyte; a message of 9 MB; one that says it has 4 GB.
    let mut request = Request::new(rank_request("u", &["i1"]));
    for n in 0..100 {
        let name = tonic::metadata::MetadataKey::from_bytes(format!("x-{n}").as_bytes()).unwrap();
        request.metadata_mut().insert(name, "y".repeat(10_000).parse().unwrap());
    }
    assert!(crate::support::Client::new(channel.clone()).rank(request).await.is_err());
    let status = call(&server.channel().await, "Rank", vec![0; 9 << 20]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let liar = vec![vec![0, 0xff, 0xff, 0xff, 0xff], vec![0; 1000]];
    let answer = slow_body(&mut server.channel().await, "Rank", liar, Duration::ZERO).await;
    assert_eq!(answer.headers().get("grpc-status").unwrap(), "11", "OUT_OF_RANGE");
    bystander.noticed_nothing().await;
}
