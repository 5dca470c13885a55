//! One pair as a line of JSON: an object with exactly two names. What is UTF-8 stands as it is,
//! under `key` and `value`; what is not stands in base64 (RFC 4648, with padding), under
//! `key_base64` and `value_base64`:
//!
//! ```text
//! {"key":"greeting","value":"hello"}
//! {"key":"picture","value_base64":"iVBORw0KGgo="}
//! ```

use std::fmt;
use std::io::{self, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kvorum_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// The longest line that can be a pair: each byte of it as `\u0000`.
pub(super) const LINE_BYTES_MAX: usize = 6 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) + 64;

/// Of a name that is none of ours, so much is told.
const NAME_CHARS_SHOWN: usize = 40;

/// Writes a line, with its end.
pub(super) fn write_pair(key: &[u8], value: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"{")?;
    write_bytes("key", key, out)?;
    out.write_all(b",")?;
    write_bytes("value", value, out)?;
    out.write_all(b"}\n")
}

fn write_bytes(name: &str, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    match str::from_utf8(bytes) {
        Ok(text) => {
            write!(out, "\"{name}\":")?;
            serde_json::to_writer(out, text).map_err(io::Error::from)
        }
        Err(_) => write!(out, "\"{name}_base64\":\"{}\"", BASE64_STANDARD.encode(bytes)),
    }
}

/// Reads a line, with or without its end; what is wrong with it in words.
pub(super) fn parse_pair(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let pair: Pair = serde_json::from_slice(line.trim_ascii_end()).map_err(|error| {
        // It is always the first line of what is read here.
        let what = error.to_string().replace(" at line 1 column ", " at column ");
        format!(r#"it is no pair such as {{"key":"k","value":"v"}}: {what}"#)
    })?;
    Ok((pair.key, pair.value))
}

struct Pair {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pair, D::Error> {
        from.deserialize_map(PairVisitor)
    }
}

/// Refuses what a map would take: a name that comes twice.
struct PairVisitor;

impl<'de> Visitor<'de> for PairVisitor {
    type Value = Pair;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a key and a value")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pair, M::Error> {
        let (mut key, mut value) = (None, None);
        while let Some(name) = map.next_key::<String>()? {
            let (place, is_encoded) = match name.as_str() {
                "key" => (&mut key, false),
                "key_base64" => (&mut key, true),
                "value" => (&mut value, false),
                "value_base64" => (&mut value, true),
                other => {
                    let start: String = other.chars().take(NAME_CHARS_SHOWN).collect();
                    return Err(M::Error::custom(format_args!("it has the name {start:?}")));
                }
            };
            let text: String = map.next_value()?;
            let bytes = match is_encoded {
                false => text.into_bytes(),
                true => BASE64_STANDARD.decode(text).map_err(|error| {
                    M::Error::custom(format_args!("{name} is no base64: {error}"))
                })?,
            };
            if place.replace(bytes).is_some() {
                let what = name.strip_suffix("_base64").unwrap_or(&name);
                return Err(M::Error::custom(format_args!("it names its {what} twice")));
            }
        }
        let missing = |what| M::Error::custom(format_args!("it has no {what}"));
        Ok(Pair {
            key: key.ok_or_else(|| missing("key"))?,
            value: value.ok_or_else(|| missing("value"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stands_as_it_is_and_other_bytes_in_base64() {
        let line = |key: &[u8], value: &[u8]| {
            let mut out = Vec::new();
            write_pair(key, value, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            line(b"k", "\u{e4}\n\"".as_bytes()),
            "{\"key\":\"k\",\"value\":\"\u{e4}\\n\\\"\"}\n"
        );
        assert_eq!(line(b"\xff", b""), "{\"key_base64\":\"/w==\",\"value\":\"\"}\n");
    }

    proptest! {
        #[test]
        fn every_pair_comes_back(key: Vec<u8>, value: Vec<u8>) {
            let mut line = Vec::new();
            write_pair(&key, &value, &mut line).unwrap();
            prop_assert!(line.len() <= LINE_BYTES_MAX);
            prop_assert_eq!(parse_pair(&line), Ok((key, value)));
        }
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for (line, expected) in [
            (&b""[..], "EOF"),
            (b"[]", "expected an object"),
            (b"\"k\"", "expected an object"),
            (br#"{"key":"k"}"#, "it has no value"),
            (br#"{"value":"v"}"#, "it has no key"),
            (br#"{"key":"k","value":1}"#, "expected a string"),
            (br#"{"key":"k","value":null}"#, "expected a string"),
            (br#"{"key":"k","value":"v","more":1}"#, r#"it has the name "more" at column"#),
            (br#"{"Key":"k","value":"v"}"#, r#"it has the name "Key""#),
            (br#"{"key":"k","key":"l","value":"v"}"#, "it names its key twice"),
            (br#"{"key":"k","value":"v","value":"v"}"#, "it names its value twice"),
            (br#"{"key":"k","key_base64":"aw==","value":"v"}"#, "it names its key twice"),
            (br#"{"key":"k","k\u0065y":"l","value":"v"}"#, "it names its key twice"),
            (br#"{"key":"k","value_base64":"a"}"#, "value_base64 is no base64"),
            (br#"{"key":"k","value_base64":"/w"}"#, "value_base64 is no base64"),
            (br#"{"key":"k","value":"v"} x"#, "trailing"),
            (br#"{"key":"k","value":"v"}{"key":"l","value":"v"}"#, "trailing"),
            (b"{\"key\":\"k\",\"value\":\"v\"}\0", "trailing"),
            (b"{\"key\":\"k\0\",\"value\":\"v\"}", "control character"),
            (b"\xef\xbb\xbf{\"key\":\"k\",\"value\":\"v\"}", "expected value"),
            (br#"{"key":"\ud800","value":"v"}"#, "hex escape"),
            (br#"{"key":"\udc00\ud800","value":"v"}"#, "hex escape"),
            (b"{\"key\":\"\xff\",\"value\":\"v\"}", "unicode"),
            (b"{\"key\":\"\xed\xa0\x80\",\"value\":\"v\"}", "unicode"),
        ] {
            let error = parse_pair(line).unwrap_err();
            assert!(error.contains(expected), "{}: {error}", line.escape_ascii());
            assert!(!error.contains("at line"), "{error}");
        }
        // Escaped, any character may stand in a pair.
        let nul = br#" {"value":"\ud83d\ude00","key":"\u0000"} "#;
        assert_eq!(parse_pair(nul), Ok((vec![0], "\u{1f600}".into())));
    }
}
