//! SipHash-2-4: the same on every machine and in every release, so that a key has one bucket everywhere.

/// A key of 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u64, pub(crate) u64);

impl Key {
    /// A key made of a text: each half is the text's hash, the second keyed with the first.
    pub(crate) fn of(text: &str) -> Self {
        let first = siphash(Self(0, 0), text.as_bytes());
        Self(first, siphash(Self(first, 0), text.as_bytes()))
    }
}

struct Words([u64; 4]);

impl Words {
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*b);
        *a = a.wrapping_add(*d);
        *b = b.rotate_left(17) ^ *c;
        *d = d.rotate_left(21) ^ *a;
        *c = c.rotate_left(32);
    }

    fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }
}

/// The hash of some bytes.
pub(crate) fn siphash(key: Key, bytes: &[u8]) -> u64 {
    let mut words = Words([
        key.0 ^ 0x736f_6d65_7073_6575,
        key.1 ^ 0x646f_7261_6e64_6f6d,
        key.0 ^ 0x6c79_6765_6e65_7261,
        key.1 ^ 0x7465_6462_7974_6573,
    ]);
    let (whole, rest) = bytes.as_chunks::<8>();
    for chunk in whole {
        words.take(u64::from_le_bytes(*chunk));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The top byte of the last word is the length, modulo 256.
    last[7] = bytes.len() as u8;
    words.take(u64::from_le_bytes(last));
    words.0[2] ^= 0xff;
    for _ in 0..4 {
        words.round();
    }
    words.0.iter().fold(0, |all, word| all ^ word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the authors' paper and reference code: key 00 01 .. 0f, input 00 01 02 ...
    #[test]
    fn the_published_vectors_come_out() {
        let key = Key(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let input: Vec<u8> = (0..64).collect();

        for (len, expected) in [
            (0, 0x726f_db47_dd0e_0e31),
            (1, 0x74f8_39c5_93dc_67fd),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ] {
            assert_eq!(expected, siphash(key, &input[..len]), "{len}");
        }
    }

    #[test]
    fn a_salt_changes_every_hash_and_nothing_else_does() {
        assert_eq!(Key::of("fraud"), Key::of("fraud"));
        assert_ne!(siphash(Key::of("a"), b"ann"), siphash(Key::of("b"), b"ann"));
    }
}
