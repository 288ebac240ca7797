//! Whether a text is UTF-8, told as its bytes come.

/// What is known of a text that comes in pieces.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Utf8 {
    /// The beginning of a character whose other bytes have not come.
    begun: [u8; 4],
    len: u8,
}

/// The text so far cannot become UTF-8, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

/// For a text that is there as a whole.
pub fn is_utf8(text: &[u8]) -> bool {
    // Most text is ASCII, for which this test is faster than `from_utf8`; it stops at the first other byte.
    text.is_ascii() || std::str::from_utf8(text).is_ok()
}

impl Utf8 {
    /// Takes the next piece; fails at the first byte that cannot be.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.len > 0 {
            let [byte, rest @ ..] = piece else {
                return Ok(());
            };
            piece = rest;
            self.begun[usize::from(self.len)] = *byte;
            self.len += 1;
            match std::str::from_utf8(&self.begun[..usize::from(self.len)]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {}
            }
        }
        if piece.is_ascii() {
            return Ok(());
        }
        let Err(error) = std::str::from_utf8(piece) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let begun = &piece[error.valid_up_to()..];
        self.begun[..begun.len()].copy_from_slice(begun);
        self.len = u8::try_from(begun.len()).expect("an unfinished character has at most 3 bytes");
        Ok(())
    }

    /// Whether the text may end here.
    pub fn is_whole(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that are often nearly UTF-8: whole characters, halves of them, and what must not be.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![
                "a", "kept", "é", "κόσμε", "中", "\u{7ff}", "\u{800}", "\u{ffff}", "🌙", "\u{10ffff}",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::sample::select(vec![
                &b"\xc3"[..], b"\xe4\xb8", b"\xf0\x9f\x8c", b"\x80", b"\xc0\x80", b"\xe0\x80", b"\xed\xa0\x80",
                b"\xf4\x90", b"\xf5", b"\xff",
            ])
            .prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn a_text_in_pieces_is_judged_as_a_whole_one_and_as_soon_as_can_be(
            text in nearly_text(),
            sizes in prop::collection::vec(0..6usize, 1..40),
        ) {
            let (mut utf8, mut at, mut failed) = (Utf8::default(), 0, false);
            for size in sizes.iter().chain([&text.len()]) {
                let end = text.len().min(at + size);
                let result = utf8.push(&text[at..end]);
                at = end;
                let hopeless = std::str::from_utf8(&text[..at]).is_err_and(|error| error.error_len().is_some());
                prop_assert_eq!(result.is_err(), hopeless, "after {} bytes of {:?}", at, text);
                if hopeless {
                    failed = true;
                    break;
                }
            }
            prop_assert_eq!(!failed && utf8.is_whole(), std::str::from_utf8(&text).is_ok());
            prop_assert_eq!(is_utf8(&text), std::str::from_utf8(&text).is_ok());
        }
    }
}
