//! A Cluster, some of whose hosts may fall silent.
//!
//! The client connects anew to nodes whose connections break, and follows slots whose owners of before say where they
//! are. A host that is gone without a word does neither. Whoever knows who owned the slots can see that others have
//! taken them.

use std::collections::BTreeSet;

use redis::{
    Pipeline, RedisResult, Value,
    aio::ConnectionLike,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
    cmd,
};

/// First slot, last slot, id of the primary.
pub(super) type Owners = BTreeSet<(i64, i64, Vec<u8>)>;

/// One command is redirected by the client wherever its slot has moved; of a pipeline, the whole.
pub(super) async fn send(
    connection: &mut ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<RedisResult<Value>>> {
    if pipeline.len() > 1 {
        return pipeline.query_async(connection).await;
    }
    let command = pipeline.cmd_iter().next().expect("one command");
    match connection.req_packed_command(command).await {
        Ok(value) => Ok(vec![value.extract_error()]),
        Err(error) if error.code().is_some() => Ok(vec![Err(error)]),
        Err(error) => Err(error),
    }
}

/// Who owns the slots, as any of the nodes has it.
pub(super) async fn owners(connection: &mut ClusterConnection) -> RedisResult<Owners> {
    let mut slots = cmd("CLUSTER");
    slots.arg("SLOTS");
    let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
    let answer = connection.route_command(slots, any).await?.extract_error()?;
    Ok(parse(&answer))
}

/// Of `[first, last, [host, port, id, ...], replicas...]` each.
fn parse(answer: &Value) -> Owners {
    let Value::Array(ranges) = answer else { return Owners::new() };
    let owner = |range: &Value| match range {
        Value::Array(parts) => match &parts[..] {
            [Value::Int(first), Value::Int(last), Value::Array(primary), ..] => match primary.get(2) {
                Some(Value::BulkString(id)) => Some((*first, *last, id.clone())),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    ranges.iter().filter_map(owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_the_primaries_by_id() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |id| Value::Array(vec![text("127.0.0.1"), Value::Int(7000), text(id), Value::Array(vec![])]);
        let range =
            |first, last, id| Value::Array(vec![Value::Int(first), Value::Int(last), node(id), node("replica")]);
        let found = parse(&Value::Array(vec![range(5461, 10922, "b"), range(0, 5460, "a"), Value::Nil]));
        assert_eq!(found, Owners::from([(0, 5460, b"a".to_vec()), (5461, 10922, b"b".to_vec())]));
    }
}
