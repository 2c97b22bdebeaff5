//! What operators see of answers, and what is kept of users for no longer than it is of use.

use sesrec::proto::v1;

use crate::support::{TestServer, event, model, rank_request, recommendation, search};

#[tokio::test]
async fn answers_are_counted() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for request in [event("u", "r", 1, recommendation("i1")), event("u", "s", 2, search("s", "unheard of", &["i2"]))] {
        client.append_event(request).await.unwrap();
    }
    for (user, items) in [("u", &["i1", "i2", "missing"][..]), ("stranger", &["i1"])] {
        client.rank(rank_request(user, items)).await.unwrap();
    }
    for (series, expected) in [
        ("sesrec_rank_unknown_users_total", 2.0),
        ("sesrec_rank_cold_starts_total", 1.0),
        ("sesrec_rank_score_count", 3.0),
        ("sesrec_searches_seen_total", 1.0),
        ("sesrec_searches_unknown_total", 1.0),
        (r#"sesrec_items_unknown_total{place="candidate"}"#, 1.0),
    ] {
        assert_eq!(server.metric(series), expected, "{series}");
    }
    // Of a long answer, some: every third here.
    client.rank(rank_request("u", &["i1"; 20])).await.unwrap();
    assert_eq!(server.metric("sesrec_rank_score_count"), 3.0 + 7.0);
}

#[tokio::test]
async fn what_was_encoded_of_a_user_goes_with_the_user_or_the_model() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let encoded = || server.metric("sesrec_user_cache_entries");
    for user in ["u", "v"] {
        client.append_event(event(user, "r", 1, recommendation("i1"))).await.unwrap();
        client.rank(rank_request(user, &["i1"])).await.unwrap();
    }
    assert_eq!(encoded(), 2.0);
    client.delete_history(v1::DeleteHistoryRequest { user_id: "u".into() }).await.unwrap();
    server.until("the erased user's is forgotten", || async { encoded() == 1.0 }).await;
    client.append_event(event("w", "r", 1, recommendation("i1"))).await.unwrap();
    client.rank(rank_request("w", &["i1"])).await.unwrap();
    assert_eq!(encoded(), 2.0);
    drop(server.slot.swap(model::loaded("v2").0));
    client.rank(rank_request("v", &["i1"])).await.unwrap();
    server.until("the old model's is forgotten", || async { encoded() == 1.0 }).await;
}
