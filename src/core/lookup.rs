//! Answering a read from the state.

use kvorum_protocol::{LogIndex, Read, Response, ValueList, ValueListBuilder};

use super::output::{Answer, Refusal};
use super::store::{KeyHash, Store};

/// How many keys of a GET_MANY are brought near before the first is looked up.
const GET_MANY_AHEAD: usize = 64;

/// What a GET answers.
#[inline]
pub fn value_response(found: Option<(LogIndex, &[u8])>) -> Response<'_> {
    match found {
        Some((version, value)) => Response::Value { version, value },
        None => Response::NotFound,
    }
}

/// How many bytes of values a read answers.
pub fn value_bytes(store: &Store, read: &Read<'_>) -> usize {
    let bytes_of = |key| store.get(key).map_or(0, |(_, value)| value.len());
    match read {
        Read::Get(key) => bytes_of(key),
        Read::GetMany(keys) => keys.iter().map(bytes_of).sum(),
        Read::Exists(_) | Read::Length(_) => 0,
    }
}

/// Answers a read from the state; lists are put together in `scratch`, which is empty before.
pub fn look_up<'a>(
    store: &'a Store,
    read: &Read<'_>,
    scratch: &'a mut Vec<u8>,
) -> Result<Response<'a>, Refusal> {
    match read {
        Read::Get(key) => Ok(value_response(store.get(key))),
        Read::GetMany(keys) => {
            let count = u32::try_from(keys.len()).expect("bounded by KEYS_PER_REQUEST_MAX");
            let mut list = ValueListBuilder::new(count, scratch);
            keys.iter().take(GET_MANY_AHEAD).for_each(|key| store.prefetch(store.hash(key)));
            let built = keys.iter().try_for_each(|key| list.push(store.get(key)));
            built.map_err(|_| Refusal::ReplyTooLarge)?;
            Ok(Response::Values(ValueList::decode(scratch).expect("just written")))
        }
        Read::Exists(keys) => {
            let count = keys.iter().filter(|key| store.get(key).is_some()).count();
            Ok(Response::Number(count as u64))
        }
        Read::Length(key) => {
            let length = store.get(key).map_or(0, |(_, value)| value.len());
            Ok(Response::Number(length as u64))
        }
    }
}

/// The same for one key, whose hash is known, with the value copied to the end of `values`.
#[inline]
pub fn get_into(store: &Store, hash: KeyHash, key: &[u8], values: &mut Vec<u8>) -> Answer {
    let Some((version, value)) = store.get_hashed(hash, key) else { return Answer::NotFound };
    let start = values.len();
    values.extend_from_slice(value);
    Answer::Value { version, start, end: values.len() }
}

/// The same, with every byte copied to the end of `values`.
pub fn look_up_into(store: &Store, read: &Read<'_>, values: &mut Vec<u8>) -> Answer {
    let start = values.len();
    if let Read::GetMany(keys) = read {
        let count = u32::try_from(keys.len()).expect("bounded by KEYS_PER_REQUEST_MAX");
        let mut list = ValueListBuilder::new(count, values);
        let built = keys.iter().try_for_each(|key| list.push(store.get(key)));
        if built.is_err() {
            values.truncate(start);
            return Answer::Refused(Refusal::ReplyTooLarge);
        }
        return Answer::Values { start, end: values.len() };
    }
    match look_up(store, read, &mut Vec::new()) {
        Ok(Response::Value { version, value }) => {
            values.extend_from_slice(value);
            Answer::Value { version, start, end: values.len() }
        }
        Ok(Response::Number(number)) => Answer::Number(number),
        _ => Answer::NotFound,
    }
}
