//! Models are swapped while callers ask: nobody notices but by the version, and the old one is freed.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::support::{TestServer, model, rank_request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_model_is_freed_with_its_last_request() {
    let server = TestServer::start().await;
    let stop = CancellationToken::new();
    let callers: Vec<_> = futures::future::join_all((0..8).map(|_| server.client()))
        .await
        .into_iter()
        .map(|mut client| {
            let stop = stop.clone();
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    client.rank(rank_request("u", &["i1", "i2"])).await.expect("no request fails");
                }
            })
        })
        .collect();
    let answered = || server.metric(r#"sesrec_requests_total{rpc="Rank",code="OK"}"#);
    for n in 2..12 {
        let before = answered();
        server.until("asked by all", || async { answered() >= before + 16.0 }).await;
        let old = Arc::downgrade(&server.slot.live());
        drop(server.slot.swap(model::loaded(&format!("v{n}")).0));
        server.until("freed", || async { old.strong_count() == 0 }).await;
    }
    stop.cancel();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(server.metric("sesrec_model_swaps_total"), 10.0);
    // The live version again, as after a SIGHUP for the tokens.
    drop(server.slot.swap(model::loaded("v11").0));
    assert_eq!(server.metric("sesrec_model_swaps_total"), 10.0);
}
