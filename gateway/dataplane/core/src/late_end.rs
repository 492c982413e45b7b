//! Takes resets out of what a backend sends, where the end of the same stream follows.
//!
//! Where the deadline of a call passes inside a gRPC C++ server, as Triton is one, that sends `RST_STREAM`
//! first and the trailers behind it. To h2 a frame of a stream that was reset is an error of the whole
//! connection, and all other calls on it would be lost with this one. Without the reset the stream ends with
//! its trailers. Both go with one write, so they are looked for in what is read at once.

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// A kind of frame that there is not: receivers ignore those.
const UNKNOWN: u8 = 0xff;
/// Of a DATA or HEADERS frame.
const END_STREAM: u8 = 1;

/// Follows the frames of one connection.
#[derive(Debug, Default)]
pub(crate) struct LateEnds {
    /// The head of a frame of which a part was read.
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the current payload that are to come.
    left: usize,
}

fn length(head: &[u8; HEAD]) -> usize {
    let [high, middle, low, ..] = *head;
    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
}

impl LateEnds {
    /// The next bytes of the connection, from which needless resets are taken.
    pub(crate) fn mend(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let part = self.left.min(bytes.len() - at);
                self.left -= part;
                at += part;
                continue;
            }
            let part = (HEAD - self.have).min(bytes.len() - at);
            self.head[self.have..self.have + part].copy_from_slice(&bytes[at..at + part]);
            self.have += part;
            at += part;
            if self.have < HEAD {
                return;
            }
            self.have = 0;
            self.left = length(&self.head);
            // Of a head that was read in two parts the kind may be gone already.
            if self.head[3] == RST_STREAM && part == HEAD {
                let next = bytes.get(at + self.left..).unwrap_or_default();
                if ends(next, &self.head[5..]) {
                    bytes[at - HEAD + 3] = UNKNOWN;
                }
            }
        }
    }
}

/// Whether one of these frames ends that stream.
fn ends(mut frames: &[u8], stream: &[u8]) -> bool {
    while let Some(head) = frames.first_chunk::<HEAD>() {
        let [_, _, _, kind, flags, id @ ..] = head;
        if matches!(*kind, DATA | HEADERS) && flags & END_STREAM != 0 && id == stream {
            return true;
        }
        frames = frames.get(HEAD + length(head)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        out.extend_from_slice(payload);
        out
    }

    fn reset(stream: u8) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, &[0; 4])
    }

    fn trailers(stream: u8) -> Vec<u8> {
        frame(HEADERS, END_STREAM | 4, stream, b"status")
    }

    fn mended(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut ends = LateEnds::default();
        let mend = |part: &Vec<u8>| {
            let mut bytes = part.clone();
            ends.mend(&mut bytes);
            bytes
        };
        parts.iter().flat_map(mend).collect()
    }

    #[test]
    fn a_reset_before_the_end_of_its_stream_is_taken_out() {
        let between = frame(DATA, 0, 3, b"other");
        let sent = [trailers(1), reset(3), reset(5), between, trailers(3)];
        let mut wanted = sent.clone();
        wanted[1][3] = UNKNOWN;

        assert_eq!(wanted.concat(), mended(&[sent.concat()]));
    }

    #[test]
    fn other_resets_stay() {
        for sent in [
            [trailers(3), reset(3)].concat(),
            [reset(3), trailers(5)].concat(),
            [reset(3), frame(DATA, 0, 3, b"more")].concat(),
            frame(DATA, 0, 1, &[reset(3), trailers(3)].concat()),
            reset(3),
        ] {
            assert_eq!(sent, mended(std::slice::from_ref(&sent)));
        }
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let sent = [frame(DATA, 0, 1, b"some bytes"), reset(3), trailers(3)].concat();
        for at in 0..19 {
            let (one, two) = sent.split_at(at);
            let mut wanted = sent.clone();
            wanted[22] = UNKNOWN;

            assert_eq!(wanted, mended(&[one.to_vec(), two.to_vec()]), "{at}");
        }
        for at in 20..sent.len() {
            let (one, two) = sent.split_at(at);
            mended(&[one.to_vec(), two.to_vec()]);
        }
    }
}
