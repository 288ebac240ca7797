//! The names of rooms: tokens joined by dots, and the patterns that match them.

/// The longest name, in bytes, whatever `limits.room_name` says.
pub const NAME_BYTES_MAX: usize = 255;

/// Whether `name` may name one room: 1 to 255 bytes, no control characters, no token `*` or `>`.
pub fn is_exact(name: &[u8]) -> bool {
    is_well_formed(name) && name.split(|b| *b == b'.').all(|token| token != b"*" && token != b">")
}

/// Whether `pattern` may be joined as a pattern: as a name, with `*` for one token and a last `>` for the rest.
pub fn is_pattern(pattern: &[u8]) -> bool {
    if !is_well_formed(pattern) {
        return false;
    }
    let mut tokens = pattern.split(|b| *b == b'.').peekable();
    while let Some(token) = tokens.next() {
        if token == b">" && tokens.peek().is_some() {
            return false;
        }
    }
    true
}

fn is_well_formed(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && std::str::from_utf8(name).is_ok_and(|text| !text.chars().any(char::is_control))
}

/// Whether `pattern` matches `name`. `>` stands for one token or more.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut names = name.split('.');
    for token in pattern.split('.') {
        match (token, names.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(name)) if token == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// `text` as one token: bytes outside `A-Za-z0-9_-` become `=XX`, an empty string `=`.
pub fn token(text: &[u8]) -> String {
    if text.is_empty() {
        return "=".to_owned();
    }
    let mut token = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            token.push(char::from(*byte));
        } else {
            token.push_str(&format!("={byte:02X}"));
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_one_token_with_a_star_and_the_rest_with_a_last_angle() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(matches(pattern, name), expected, "{pattern} against {name}");
        };
        check("room.*", "room.1", true);
        check("room.*", "room.1.x", false);
        check("room.*", "room", false);
        check("room.>", "room.1.x", true);
        check("room.>", "room", false);
        check(">", "anything.at.all", true);
        check("*.chat", "room.chat", true);
        check("room.1", "room.1", true);
        check("room.1", "room.11", false);
    }

    #[test]
    fn names_are_1_to_255_bytes_without_control_characters_or_pattern_tokens() {
        for good in ["a", "room.42.cursors", "räume.1", "a*b", "x.>y", &"n".repeat(255)] {
            assert!(is_exact(good.as_bytes()), "{good}");
        }
        for bad in ["", "a.*", ">", "a\nb", "a\u{7f}", &"n".repeat(256)] {
            assert!(!is_exact(bad.as_bytes()), "{bad:?}");
        }
        assert!(!is_exact(b"\xff"));
        assert!(is_pattern(b"a.*.b.>"));
        assert!(!is_pattern(b"a.>.b"));
    }

    #[test]
    fn a_token_is_reversible_text_without_dots() {
        assert_eq!(token(b"Ann-1_x"), "Ann-1_x");
        assert_eq!(token(b""), "=");
        assert_eq!(token("a.b ü=".as_bytes()), "a=2Eb=20=C3=BC=3D");
        assert!(is_exact(token(b"*").as_bytes()));
    }
}
