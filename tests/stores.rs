//! One contract, three stores: `memory`, `embedded`, and `redis` as a real redis-server, a pair under a Sentinel, and a
//! Cluster of three.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "stores/contract.rs"]
mod contract;
#[path = "stores/differential.rs"]
mod differential;
#[path = "stores/embedded.rs"]
mod embedded_faults;
#[path = "stores/figures.rs"]
mod figures;
#[path = "stores/fixture.rs"]
mod fixture;
#[path = "stores/redis_keys.rs"]
mod redis_keys;
#[path = "stores/redis_outages.rs"]
mod redis_outages;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "stores/redis_several.rs"]
mod redis_several;
#[path = "stores/schema.rs"]
mod schema;
#[path = "support/skip.rs"]
mod skip;

/// Every test of the contract, for every store.
macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        contract!(@store memory, Memory, $($test),*);
        contract!(@store embedded, Embedded, $($test),*);
        contract!(@store redis, Redis, $($test),*);

        /// Everything, one after the other: for servers that take long to start.
        async fn whole_contract(kind: fixture::Kind) {
            $(contract::$test(kind).await;)*
        }
    };
    (@store $store:ident, $kind:ident, $($test:ident),*) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $test() {
                    crate::contract::$test(crate::fixture::Kind::$kind).await;
                }
            )*
        }
    };
}

contract![
    an_unknown_user_is_empty,
    events_are_ordered_by_time_then_id,
    outcomes_are_exact,
    clicks_join_their_search,
    clicks_go_with_their_search,
    events_expire,
    erased_events_stay_out,
    versions_grow_and_unchanged_is_said,
    one_call_may_mix_users,
    any_order_gives_the_same_history,
    sixteen_writers_lose_nothing,
    memory_is_bounded_under_an_endless_stream,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_contract_through_a_sentinel() {
    let guarded = redis_server::Guarded::start(1).await;
    whole_contract(fixture::Kind::shared(guarded.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_contract_on_a_cluster_of_three() {
    let cluster = redis_server::Cluster::start();
    whole_contract(fixture::Kind::shared(cluster.url())).await;
}
