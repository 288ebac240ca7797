//! The mask that every byte from a peer lies under (RFC 6455, 5.3).

/// The four bytes of a frame, turned to the next byte that they apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask([u8; 4]);

impl Mask {
    pub fn new(key: [u8; 4]) -> Mask {
        Mask(key)
    }

    /// Takes the mask off `bytes`, and turns it so that the frame's next bytes may follow.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let key = u32::from_ne_bytes(self.0);
        let wide = (u64::from(key) << 32) | u64::from(key);
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
            *byte ^= key;
        }
        self.0.rotate_left(bytes.len() % 4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mask_comes_off_the_same_whatever_the_pieces(
            plain in prop::collection::vec(any::<u8>(), 0..200),
            key: [u8; 4],
            cut in 0..200usize,
        ) {
            let mut masked: Vec<u8> = plain.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let (front, back) = masked.split_at_mut(cut.min(plain.len()));
            let mut mask = Mask::new(key);
            mask.apply(front);
            mask.apply(back);
            prop_assert_eq!(masked, plain);
        }
    }
}
