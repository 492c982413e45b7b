//! How an input is made from seeds: byte by byte, or frame by frame where it is an HTTP/2 connection.

use crate::random::Random;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const MOST: usize = 1 << 18;
const ODD_BYTES: &[u8] = &[0, 1, 0x7f, 0x80, 0xff, 0x0a, 0x12, 0x0b, b'@', b'\n'];
const ODD_NUMBERS: &[u32] = &[
    0,
    1,
    0x7fff_ffff,
    0xffff_ffff,
    0x0100_0000,
    16_384,
    16_385,
    65_535,
];

/// A changed copy of one of the seeds. `seeds` must not be empty, else the copy is.
pub fn bytes(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.one_of(seeds).cloned().unwrap_or_default();
    for _ in 0..=random.below(6) {
        change(random, &mut input, seeds);
    }
    input.truncate(MOST);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(input.len());
    match random.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = *random.one_of(ODD_BYTES).unwrap_or(&0),
        2 if !input.is_empty() => input[at] = random.number() as u8,
        3 => input.insert(at, random.number() as u8),
        4 if !input.is_empty() => {
            let end = at + random.below((input.len() - at).min(64)) + 1;
            input.drain(at..end.min(input.len()));
        }
        5 => {
            let end = at + random.below(input.len() - at);
            let copy = input[at..end].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, copy);
        }
        6 if input.len() >= at + 4 => {
            let number = random.one_of(ODD_NUMBERS).copied().unwrap_or_default();
            input[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        7 => input.truncate(at),
        _ => {
            if let Some(other) = random.one_of(seeds) {
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// A changed copy of one of the recorded connections; the preface mostly stays.
pub fn connection(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.one_in(8) {
        return bytes(random, seeds);
    }
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for _ in 0..=random.below(2) {
        if let Some(seed) = random.one_of(seeds) {
            frames.extend(split(seed));
        }
    }
    for _ in 0..=random.below(5) {
        change_frames(random, &mut frames);
    }
    let mut input = PREFACE.to_vec();
    for frame in &frames {
        input.extend_from_slice(frame);
    }
    input.truncate(MOST);
    input
}

/// The frames behind the preface; what is no whole frame is left out.
#[must_use]
pub fn split(connection: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = connection.strip_prefix(PREFACE).unwrap_or(connection);
    let mut frames = Vec::new();
    while rest.len() >= HEAD {
        let len = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let Some((frame, after)) = rest.split_at_checked(HEAD + len) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

fn change_frames(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    let at = random.below(frames.len());
    if frames.is_empty() {
        return;
    }
    match random.below(9) {
        0 => drop(frames.remove(at)),
        1 => frames.insert(at, frames[at].clone()),
        2 => {
            let other = random.below(frames.len());
            frames.swap(at, other);
        }
        // Another kind, other flags.
        3 => frames[at][3] = random.below(12) as u8,
        4 => frames[at][4] ^= 1 << random.below(8),
        // Another stream.
        5 => {
            let stream = random.below(12) as u32;
            frames[at][5..HEAD].copy_from_slice(&stream.to_be_bytes());
        }
        // Another payload under an honest length.
        6 => {
            let mut payload = frames[at].split_off(HEAD);
            change(random, &mut payload, &[]);
            let len = (payload.len() as u32).to_be_bytes();
            frames[at][..3].copy_from_slice(&len[1..]);
            frames[at].extend_from_slice(&payload);
        }
        // A payload that is cut into DATA frames of its own.
        7 if frames[at][3] == 0 => {
            let payload = frames[at].split_off(HEAD);
            let head = frames.remove(at);
            let cut = random.below(payload.len() + 1);
            for (part, last) in [(&payload[..cut], false), (&payload[cut..], true)] {
                let mut frame = head.clone();
                frame[..3].copy_from_slice(&(part.len() as u32).to_be_bytes()[1..]);
                frame[4] &= u8::from(last);
                frame.extend_from_slice(part);
                frames.insert(at + usize::from(last), frame);
            }
        }
        // A length that is a lie.
        _ => frames[at][random.below(3)] ^= 1 << random.below(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Vec<Vec<u8>> {
        let mut one = PREFACE.to_vec();
        one.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        one.extend_from_slice(&[0, 0, 2, 0, 1, 0, 0, 0, 1, b'h', b'i']);
        vec![one]
    }

    #[test]
    fn a_connection_is_its_frames() {
        let frames = split(&recorded()[0]);

        assert_eq!([9, 11], [frames[0].len(), frames[1].len()]);
        assert_eq!(recorded()[0][PREFACE.len()..], frames.concat());
    }

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_most_differ() {
        let (mut one, mut other) = (Random::new(3), Random::new(3));
        let seeds = recorded();
        let mut unlike = 0;
        for _ in 0..500 {
            let input = connection(&mut one, &seeds);
            assert_eq!(input, connection(&mut other, &seeds));
            unlike += usize::from(input != seeds[0]);
            assert_eq!(bytes(&mut one, &seeds), bytes(&mut other, &seeds));
        }

        assert!(unlike > 400, "{unlike}");
    }

    #[test]
    fn nothing_can_be_made_of_nothing() {
        let mut random = Random::new(5);
        for _ in 0..2_000 {
            let _ = bytes(&mut random, &[]);
            let _ = connection(&mut random, &[]);
            let _ = bytes(&mut random, &[Vec::new()]);
        }
    }
}
