//! A strict reader of RESP replies, so that a reply can not smuggle in a second one.

/// Panics unless `bytes` is exactly `count` replies.
///
/// See <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
pub fn check(bytes: &[u8], count: usize) {
    let mut rest = bytes;
    for _ in 0..count {
        rest = value(rest, bytes);
    }
    assert!(rest.is_empty(), "more than {count} replies: {}", bytes.escape_ascii());
}

/// Takes one value off the front of `bytes`; `all` is for the message.
fn value<'a>(bytes: &'a [u8], all: &[u8]) -> &'a [u8] {
    let wrong = || -> ! { panic!("no reply: {}", all.escape_ascii()) };
    let Some((kind, rest)) = bytes.split_first() else { wrong() };
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { wrong() };
    let (line, mut rest) = (&rest[..end], &rest[end + 2..]);
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        wrong();
    }
    let number = || str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok());
    match kind {
        b'+' | b'-' | b'(' | b',' => rest,
        b'_' if line.is_empty() => rest,
        b'#' if matches!(line, b"t" | b"f") => rest,
        b':' if number().is_some() => rest,
        b'$' | b'=' | b'!' => match number() {
            Some(-1) if *kind == b'$' => rest,
            Some(length @ 0..) => {
                let length = usize::try_from(length).unwrap_or_else(|_| wrong());
                match rest.split_at_checked(length) {
                    Some((_, [b'\r', b'\n', behind @ ..])) => behind,
                    _ => wrong(),
                }
            }
            _ => wrong(),
        },
        b'*' | b'~' | b'>' | b'%' => {
            let values = match number() {
                Some(-1) if *kind == b'*' => 0,
                Some(pairs @ 0..) if *kind == b'%' => 2 * pairs,
                Some(values @ 0..) => values,
                _ => wrong(),
            };
            for _ in 0..values {
                rest = value(rest, all);
            }
            rest
        }
        _ => wrong(),
    }
}
