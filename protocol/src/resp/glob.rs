//! Redis's glob patterns: `*`, `?`, `[a-c]`, `[^x]`, and `\` before a byte that stands for itself.

/// Whether `pattern` matches all of `text`, without regard to ASCII case. Takes time proportional
/// to the product of the lengths at most, whatever the pattern.
pub(super) fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Behind the last star, and the text that the star has not swallowed yet. A later star makes
    // the earlier ones final, which is what keeps this from being exponential.
    let mut star = None;
    loop {
        if let Some(behind) = pattern.strip_prefix(b"*") {
            pattern = behind;
            star = Some((behind, text));
            continue;
        }
        if let Some((&byte, rest)) = text.split_first() {
            if let Some(behind) = take_one(pattern, byte.to_ascii_lowercase()) {
                (pattern, text) = (behind, rest);
                continue;
            }
        } else if pattern.is_empty() {
            return true;
        }
        let Some((behind, [_, rest @ ..])) = star else {
            return false;
        };
        star = Some((behind, rest));
        (pattern, text) = (behind, rest);
    }
}

/// What is behind the first element of `pattern`, if that matches `byte` (in lower case).
fn take_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let is = |other: &u8| other.to_ascii_lowercase() == byte;
    match pattern {
        [b'?', behind @ ..] => Some(behind),
        [b'[', class @ ..] => take_class(class, byte),
        [b'\\', escaped, behind @ ..] => is(escaped).then_some(behind),
        [literal, behind @ ..] => is(literal).then_some(behind),
        [] => None,
    }
}

/// `class` is behind its `[`. A class that is not closed ends with the pattern, as in Redis.
fn take_class(class: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut class) = match class {
        [b'^', class @ ..] => (true, class),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        let (low, high);
        (low, high, class) = match class {
            [b']', behind @ ..] => return (found != negated).then_some(behind),
            [b'\\', escaped, rest @ ..] => (*escaped, *escaped, rest),
            [low, b'-', high, rest @ ..] => (*low, *high, rest),
            [single, rest @ ..] => (*single, *single, rest),
            [] => return (found != negated).then_some(class),
        };
        let (low, high) = (low.to_ascii_lowercase(), high.to_ascii_lowercase());
        found |= (low.min(high)..=low.max(high)).contains(&byte);
    }
}

#[cfg(test)]
mod tests {
    use super::matches_ignore_case;

    #[test]
    fn patterns_match_as_in_redis() {
        let table: [(&str, &str, bool); 22] = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbcd", false),
            ("*b*", "abc", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("SAVE", "save", true),
            ("save", "SAVE", true),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a]x", "bx", true),
            ("[^a]x", "ax", false),
            ("[\\]]", "]", true),
            ("[a", "a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("max*policy", "maxmemory-policy", true),
            ("*append*sync", "appendfsync", true),
        ];
        for (pattern, text, expected) in table {
            let matched = matches_ignore_case(pattern.as_bytes(), text.as_bytes());
            assert_eq!(matched, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = [&b"a*".repeat(200)[..], b"b"].concat();
        assert!(!matches_ignore_case(&pattern, &b"a".repeat(10_000)));
    }
}
