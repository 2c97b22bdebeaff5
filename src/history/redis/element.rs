//! How an event lies in a list: a header that the scripts can read, then the value.

use super::super::{StoreError, codec, timeline::Row};
use crate::{
    domain::{EventId, EventTime, Payload},
    proto::stored::{StoredEvent, stored_event::Payload as Stored},
};

/// Time (8 bytes, big endian), event id and search id each after its length (2), value.
pub(super) fn encode(time: EventTime, event_id: &EventId, payload: &Payload) -> Vec<u8> {
    let mut message = codec::message(payload);
    // It stands in the header.
    let search_id = search_id_mut(&mut message).map(std::mem::take).unwrap_or_default();
    let value = codec::encode(&message);
    let mut element = Vec::with_capacity(12 + event_id.as_str().len() + search_id.len() + value.len());
    element.extend_from_slice(&time.nanos().to_be_bytes());
    for id in [event_id.as_str(), &search_id] {
        // Ids have at most 512 bytes.
        element.extend_from_slice(&(id.len() as u16).to_be_bytes());
        element.extend_from_slice(id.as_bytes());
    }
    element.extend_from_slice(&value);
    element
}

pub(super) fn decode(element: &[u8]) -> Result<Row, StoreError> {
    let short = || StoreError::Corrupt(format!("list element of {} bytes ends too early", element.len()));
    let (time, rest) = element.split_first_chunk().ok_or_else(short)?;
    let (event_id, rest) = split_id(rest).ok_or_else(short)?;
    let (search_id, value) = split_id(rest).ok_or_else(short)?;
    let mut message: StoredEvent = codec::decode(value)?;
    if let Some(field) = search_id_mut(&mut message) {
        *field = text(search_id)?.into();
    }
    Ok(Row {
        time: codec::time(u64::from_be_bytes(*time))?,
        event_id: EventId::new(text(event_id)?).map_err(codec::corrupt("event_id"))?,
        payload: codec::payload(message)?,
    })
}

/// For the fuzz target.
pub(in super::super) fn read_element(bytes: &[u8]) {
    let _ = decode(bytes);
    let _ = decode_time(bytes);
}

/// The time alone, as in a user's meta key.
pub(super) fn decode_time(bytes: &[u8]) -> Result<EventTime, StoreError> {
    let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt(format!("time of {} bytes", bytes.len())))?;
    codec::time(u64::from_be_bytes(bytes))
}

fn split_id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn text(id: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(id).map_err(|error| StoreError::Corrupt(format!("identifier: {error}")))
}

fn search_id_mut(message: &mut StoredEvent) -> Option<&mut String> {
    match &mut message.payload {
        Some(Stored::Search(search)) => Some(&mut search.search_id),
        Some(Stored::Click(click)) => Some(&mut click.search_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ItemId, SearchClick, SearchId};

    #[test]
    fn elements_are_read_back() {
        let payload = Payload::SearchClick(SearchClick {
            search_id: SearchId::new("søk").unwrap(),
            item_id: ItemId::new("i").unwrap(),
        });
        let (time, event_id) = (EventTime::from_millis(1_700_000_000_000).unwrap(), EventId::new("é1").unwrap());
        let element = encode(time, &event_id, &payload);
        assert_eq!(decode(&element).unwrap(), Row { time, event_id, payload });
        for length in 0..element.len() {
            assert!(decode(&element[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
            let _ = decode_time(&bytes);
        }
    }
}
