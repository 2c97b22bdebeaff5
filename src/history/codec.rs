//! Stored values: one schema version byte, then a protobuf message of `stored.proto`.
//!
//! What a store has in its keys already (time, event id) is left out of the value. A newer schema is refused by name;
//! an older one is read: whoever raises [`SCHEMA`] adds the conversion to [`decode`] and a fixture to the tests below.

use prost::Message;

use super::StoreError;
use crate::{
    domain::{
        EventTime, HistoryVersion, IdError, ItemId, Payload, Query, QueryId, Recommendation, Search, SearchClick,
        SearchId,
    },
    proto::stored::{
        StoredClick, StoredEvent, StoredMeta, StoredRecommendation, StoredSearch, stored_event::Payload as Stored,
        stored_search::QueryForm,
    },
};

/// The schema that is written, and the newest that is read.
pub(super) const SCHEMA: u8 = 1;

/// A message as a value.
pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(SCHEMA);
    message.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}

/// A value as a message.
pub(super) fn decode<M: Message + Default>(value: &[u8]) -> Result<M, StoreError> {
    match value.split_first() {
        Some((&SCHEMA, message)) => M::decode(message).map_err(|error| StoreError::Corrupt(error.to_string())),
        Some((&found, _)) if found > SCHEMA => Err(StoreError::NewerSchema { found, supported: SCHEMA }),
        Some((&found, _)) => Err(StoreError::Corrupt(format!("schema version {found} was never written"))),
        None => Err(StoreError::Corrupt("empty value".into())),
    }
}

/// Reads bytes as everything that a store holds, and says nothing: for the fuzz target.
#[doc(hidden)]
pub fn read_stored(bytes: &[u8]) {
    let _ = decode::<StoredEvent>(bytes).and_then(payload);
    let _ = decode_meta(bytes);
    super::redis::read_element(bytes);
}

/// A payload as the message that is stored, without event id and time.
pub(super) fn message(payload: &Payload) -> StoredEvent {
    let payload = match payload {
        Payload::Recommendation(recommendation) => {
            Stored::Recommendation(StoredRecommendation { item_id: recommendation.item_id.as_str().into() })
        }
        Payload::Search(search) => Stored::Search(StoredSearch {
            search_id: search.search_id.as_str().into(),
            query_form: Some(match &search.query {
                Query::Text(text) => QueryForm::Query(text.as_ref().into()),
                Query::Id(id) => QueryForm::QueryId(id.as_str().into()),
            }),
            source: search.source.as_deref().unwrap_or_default().into(),
            clicked_item_ids: search.clicked_item_ids.iter().map(|item| item.as_str().into()).collect(),
        }),
        Payload::SearchClick(click) => Stored::Click(StoredClick {
            search_id: click.search_id.as_str().into(),
            item_id: click.item_id.as_str().into(),
        }),
    };
    StoredEvent { payload: Some(payload), ..StoredEvent::default() }
}

/// The payload of a stored message.
pub(super) fn payload(message: StoredEvent) -> Result<Payload, StoreError> {
    Ok(match message.payload.ok_or_else(|| StoreError::Corrupt("an event without a payload".into()))? {
        Stored::Recommendation(recommendation) => Payload::Recommendation(Recommendation {
            item_id: ItemId::new(&recommendation.item_id).map_err(corrupt("item_id"))?,
        }),
        Stored::Search(search) => Payload::Search(Search {
            search_id: SearchId::new(&search.search_id).map_err(corrupt("search_id"))?,
            query: match search.query_form {
                Some(QueryForm::QueryId(id)) => Query::Id(QueryId::new(&id).map_err(corrupt("query_id"))?),
                Some(QueryForm::Query(text)) => Query::Text(text.into()),
                None => Query::Text("".into()),
            },
            source: (!search.source.is_empty()).then(|| search.source.into()),
            clicked_item_ids: (search.clicked_item_ids.iter())
                .map(|item| ItemId::new(item).map_err(corrupt("clicked_item_ids")))
                .collect::<Result<_, _>>()?,
        }),
        Stored::Click(click) => Payload::SearchClick(SearchClick {
            search_id: SearchId::new(&click.search_id).map_err(corrupt("search_id"))?,
            item_id: ItemId::new(&click.item_id).map_err(corrupt("item_id"))?,
        }),
    })
}

/// Version and erasure as a value.
pub(super) fn encode_meta(version: HistoryVersion, erased_through: EventTime) -> Vec<u8> {
    encode(&StoredMeta { version: version.0, erased_through: erased_through.nanos() })
}

/// Version and erasure of a value.
pub(super) fn decode_meta(value: &[u8]) -> Result<(HistoryVersion, EventTime), StoreError> {
    let meta: StoredMeta = decode(value)?;
    Ok((HistoryVersion(meta.version), time(meta.erased_through)?))
}

/// A stored time.
pub(super) fn time(nanos: u64) -> Result<EventTime, StoreError> {
    EventTime::from_nanos(nanos).map_err(|error| StoreError::Corrupt(format!("time {error}")))
}

/// A stored identifier that is none.
pub(super) fn corrupt(field: &'static str) -> impl Fn(IdError) -> StoreError {
    move |error| StoreError::Corrupt(format!("{field} {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn search() -> Payload {
        Payload::Search(Search {
            search_id: SearchId::new("s1").unwrap(),
            query: Query::Text("kühl schrank".into()),
            source: Some("USER_INPUT".into()),
            clicked_item_ids: vec![ItemId::new("i1").unwrap(), ItemId::new("i2").unwrap()],
        })
    }

    #[test]
    fn values_are_read_back() {
        let click = SearchClick { search_id: SearchId::new("s").unwrap(), item_id: ItemId::new("i").unwrap() };
        let by_id = Search {
            search_id: SearchId::new("s").unwrap(),
            query: Query::Id(QueryId::new("q").unwrap()),
            source: None,
            clicked_item_ids: vec![],
        };
        let payloads = [
            Payload::Recommendation(Recommendation { item_id: ItemId::new("i").unwrap() }),
            search(),
            Payload::Search(by_id),
            Payload::SearchClick(click),
        ];
        for original in payloads {
            let value = encode(&message(&original));
            assert_eq!(payload(decode(&value).unwrap()).unwrap(), original);
        }
    }

    /// Bytes as schema 1 wrote them: they must be read for ever.
    #[test]
    fn schema_1_is_read() {
        let value = b"\x01\x22\x27\x0a\x02s1\x12\x0dk\xc3\xbchl schrank\x22\x0aUSER_INPUT\x2a\x02i1\x2a\x02i2";
        assert_eq!(payload(decode(value).unwrap()).unwrap(), search());
        let meta = b"\x01\x08\xac\x02\x10\x07";
        assert_eq!(decode_meta(meta).unwrap(), (HistoryVersion(300), EventTime::from_nanos(7).unwrap()));
    }

    #[test]
    fn newer_schema_is_refused_by_name() {
        let mut value = encode(&message(&search()));
        value[0] = SCHEMA + 1;
        let error = decode::<StoredEvent>(&value).unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 2, supported: 1 }), "{error}");
        value[0] = 0;
        assert!(matches!(decode::<StoredEvent>(&value), Err(StoreError::Corrupt(_))));
        assert!(matches!(decode::<StoredEvent>(b""), Err(StoreError::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<StoredEvent>(&bytes).and_then(payload);
            let _ = decode_meta(&bytes);
            let mut valid_schema = bytes;
            valid_schema.insert(0, SCHEMA);
            let _ = decode::<StoredEvent>(&valid_schema).and_then(payload);
            let _ = decode_meta(&valid_schema);
        }

        #[test]
        fn damaged_values_never_panic(place in 0_usize..40, byte: u8) {
            let mut value = encode(&message(&search()));
            let place = place % value.len();
            value[place] = byte;
            let _ = decode::<StoredEvent>(&value).and_then(payload);
        }
    }
}
