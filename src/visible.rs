//! Text of peers and scripts, as it may be printed.

use std::borrow::Cow;

/// `text` with every character written out that would end the line, move a terminal's cursor or reorder what is seen.
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_but(text, &[])
}

/// `visible`, but the characters of `kept` stay as they are.
pub fn visible_but<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let hides = |c: char| is_hidden(c) && !kept.contains(&c);
    if !text.contains(hides) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hides(c) {
            // `\n`, `\r` and `\t` by name, the others as `\u{1b}`.
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// At most `bytes_max` bytes of `text`, and no part of a character.
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Control characters, line separators, and those that change the direction of the text after them.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
