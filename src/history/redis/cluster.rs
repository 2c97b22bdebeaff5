//! A Cluster, some of whose hosts may fall silent.
//!
//! The client connects anew to nodes whose connections break, and follows slots whose owners of before say where they
//! are. A host that is gone without a word does neither. Whoever knows who owned the slots can see that others have
//! taken them, and whose users not to wait for meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{Error, ErrorKind},
    sync::Arc,
    time::Duration,
};

use redis::{
    Pipeline, RedisResult, Value,
    aio::ConnectionLike,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo, Slot},
    cmd,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{super::user_key::UserKey, silence::Silence};

/// A node that has answered nobody for this long is asked by a few only, until it answers.
const NODE_SILENCE: Duration = Duration::from_millis(500);
/// How many ask a silent node at a time.
const QUESTIONS: usize = 64;

/// First slot, last slot, id of the primary.
type Owners = BTreeSet<(i64, i64, Vec<u8>)>;

/// A connection to a Cluster, and how its nodes answer.
#[derive(Clone)]
pub(super) struct Cluster {
    connection: ClusterConnection,
    nodes: Arc<Nodes>,
}

/// How the owners of the slots answer.
struct Nodes {
    owners: Owners,
    /// Places in `nodes`.
    by_slot: HashMap<Slot, usize>,
    /// The last one stands for those that are not known.
    nodes: Vec<Node>,
}

/// One owner of slots.
pub(super) struct Node {
    pub(super) silence: Silence,
    questions: Arc<Semaphore>,
}

impl Cluster {
    /// Asks who owns the slots. Where nobody says, all users are with one node that stands for those not known.
    pub(super) async fn new(mut connection: ClusterConnection) -> Self {
        let owners = owners(&mut connection).await.unwrap_or_default();
        Self { connection, nodes: Arc::new(Nodes::new(owners)) }
    }

    /// The node that has a user.
    pub(super) fn node_of(&self, user: &UserKey) -> &Node {
        self.nodes.of(user)
    }

    /// One command is redirected by the client wherever its slot has moved; of a pipeline, the whole.
    pub(super) async fn send(&self, pipeline: &Pipeline) -> RedisResult<Vec<RedisResult<Value>>> {
        let mut connection = self.connection.clone();
        if pipeline.len() > 1 {
            return pipeline.query_async(&mut connection).await;
        }
        let command = pipeline.cmd_iter().next().expect("one command");
        match connection.req_packed_command(command).await {
            Ok(value) => Ok(vec![value.extract_error()]),
            Err(error) if error.code().is_some() => Ok(vec![Err(error)]),
            Err(error) => Err(error),
        }
    }

    /// Whether slots have other owners now than when the connection was made, as far as a node says.
    pub(super) async fn has_other_owners(&self) -> bool {
        let mut connection = self.connection.clone();
        owners(&mut connection).await.is_ok_and(|owners| owners != self.nodes.owners)
    }
}

impl Nodes {
    /// As they were when a connection was made. Slots that move afterwards count with the node that they were at.
    fn new(owners: Owners) -> Self {
        let mut places = BTreeMap::new();
        let mut by_slot = HashMap::new();
        for (first, last, id) in &owners {
            let next = places.len();
            let place = *places.entry(id).or_insert(next);
            let slots = (*first..=*last).filter_map(|slot| Slot::new(slot.try_into().ok()?));
            by_slot.extend(slots.map(|slot| (slot, place)));
        }
        let node = || Node { silence: Silence::new(), questions: Arc::new(Semaphore::new(QUESTIONS)) };
        let nodes = (0..=places.len()).map(|_| node()).collect();
        Self { by_slot, nodes, owners }
    }

    /// The node that has a user.
    fn of(&self, user: &UserKey) -> &Node {
        let place = self.by_slot.get(&Slot::for_key(user.to_string()));
        &self.nodes[*place.unwrap_or(&(self.nodes.len() - 1))]
    }
}

impl Node {
    /// Whether it has been asked for a while and answered nobody.
    pub(super) fn is_silent(&self) -> bool {
        self.silence.lasts() >= NODE_SILENCE
    }

    /// A place among those who ask a silent node; none is needed at one that answers.
    ///
    /// # Errors
    /// Times out at once where enough others ask.
    pub(super) fn place(&self) -> RedisResult<Option<OwnedSemaphorePermit>> {
        if !self.is_silent() {
            return Ok(None);
        }
        let place = self.questions.clone().try_acquire_owned();
        place.map(Some).map_err(|_| Error::new(ErrorKind::TimedOut, "a node of the Cluster answers nobody").into())
    }
}

/// Who owns the slots, as any of the nodes has it.
async fn owners(connection: &mut ClusterConnection) -> RedisResult<Owners> {
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
    use crate::domain::UserId;

    #[test]
    fn owners_are_the_primaries_by_id() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |id| Value::Array(vec![text("127.0.0.1"), Value::Int(7000), text(id), Value::Array(vec![])]);
        let range =
            |first, last, id| Value::Array(vec![Value::Int(first), Value::Int(last), node(id), node("replica")]);
        let found = parse(&Value::Array(vec![range(5461, 10922, "b"), range(0, 5460, "a"), Value::Nil]));
        assert_eq!(found, Owners::from([(0, 5460, b"a".to_vec()), (5461, 10922, b"b".to_vec())]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_asked_by_a_few_and_the_others_as_before() {
        let user = |n: u32| UserKey::of(&UserId::new(&format!("u{n}")).expect("a valid id"));
        let slot = Slot::for_key(user(0).to_string());
        let slot = (0..16384).find(|&n| Slot::new(n) == Some(slot)).expect("one of all slots").into();
        let around = [(0, slot - 1, b"b".to_vec()), (slot, slot, b"a".to_vec()), (slot + 1, 16383, b"b".to_vec())];
        let nodes = Nodes::new(Owners::from(around));
        let ask = |n| {
            let node = nodes.of(&user(n));
            node.silence.asked();
            node.place()
        };
        let mut places: Vec<_> = (0..100).map(|_| ask(0)).collect();
        assert!(places.iter().all(|place| matches!(place, Ok(None))), "it has only just been asked");
        tokio::time::advance(NODE_SILENCE).await;
        places = (0..100).map(|_| ask(0)).collect();
        assert_eq!(places.iter().filter(|place| matches!(place, Ok(Some(_)))).count(), QUESTIONS);
        assert!(places.iter().filter_map(|place| place.as_ref().err()).all(redis::RedisError::is_timeout));
        assert!(matches!(ask(1), Ok(None)), "another node's user");
        drop(places);
        assert!(matches!(ask(0), Ok(Some(_))), "the places are free again");
        nodes.of(&user(0)).silence.answered();
        assert!(matches!(ask(0), Ok(None)));
    }
}
