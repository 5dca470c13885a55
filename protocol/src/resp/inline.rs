//! Inline commands: a line of words, for people and for the first test of redis-benchmark. The
//! quoting rules are those of Redis: `"..."` with `\n \r \t \b \a \xHH` and `\` before any other
//! byte, `'...'` with `\'` alone; a closing quote ends its word.

use super::args::Args;
use super::decode::ProtocolError;

/// Splits a line (without its `\n`) into words.
pub(super) fn split(line: &[u8], args: &mut Args) -> Result<(), ProtocolError> {
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        args.push_word(|word| {
            rest = take_word(rest, word)?;
            Ok(())
        })?;
        rest = rest.trim_ascii_start();
    }
    Ok(())
}

/// Appends the first word of `line` to `word` and returns what is behind it.
fn take_word<'a>(line: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    let mut rest = line;
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            b'"' => return ends_word(take_double_quoted(behind, word)?),
            b'\'' => return ends_word(take_single_quoted(behind, word)?),
            _ if byte.is_ascii_whitespace() => break,
            _ => word.push(byte),
        }
        rest = behind;
    }
    Ok(rest)
}

fn ends_word(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !byte.is_ascii_whitespace() => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn take_double_quoted<'a>(
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, behind) = match *rest {
            [b'"', ref behind @ ..] => return Ok(behind),
            [b'\\', b'x', high, low, ref behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(high) << 4 | hex_digit(low), behind)
            }
            [b'\\', escaped, ref behind @ ..] => (unescape(escaped), behind),
            [byte, ref behind @ ..] => (byte, behind),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        word.push(byte);
        rest = behind;
    }
}

fn take_single_quoted<'a>(
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, behind) = match *rest {
            [b'\'', ref behind @ ..] => return Ok(behind),
            [b'\\', b'\'', ref behind @ ..] => (b'\'', behind),
            [byte, ref behind @ ..] => (byte, behind),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        word.push(byte);
        rest = behind;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

/// Of an ASCII hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
