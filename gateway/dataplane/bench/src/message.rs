//! The one `ModelInferRequest` that is sent, the one `ModelInferResponse` that is given, and the check
//! that an answer is that one: read field by field, because a gateway may rename it by appending.

use bytes::{BufMut, Bytes, BytesMut};

/// The header that names the caller, on which arms are sticky.
pub const USER_HEADER: &str = "x-user-id";

/// gRPC's prefix of a message: one byte of compression, four of length.
pub const PREFIX: usize = 5;
/// The path of the call that is measured.
pub const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// A request with this header is answered before its body has been read.
pub const EARLY_HEADER: &str = "x-bench-early";

const MODEL_NAME: u32 = 1;
const MODEL_VERSION: u32 = 2;
const REQUEST_RAW_INPUTS: u32 = 7;
const ANSWER_RAW_OUTPUTS: u32 = 6;
const LENGTH_DELIMITED: u64 = 2;

/// A framed `ModelInferRequest` for `model`, `size` bytes long without its prefix, all FP32 zeros in
/// one tensor `x`; longer where the names alone take more.
#[must_use]
pub fn request(model: &str, size: usize) -> Bytes {
    let mut message = BytesMut::new();
    put_field(&mut message, MODEL_NAME, model.as_bytes());
    let mut tensor = BytesMut::new();
    put_field(&mut tensor, 1, b"x");
    put_field(&mut tensor, 2, b"FP32");
    put_field(&mut tensor, 3, &[1, 1]);
    put_field(&mut message, 5, &tensor);
    pad(&mut message, REQUEST_RAW_INPUTS, size);
    framed(&message)
}

/// A framed `ModelInferResponse`, `size` bytes long without its prefix.
#[must_use]
pub fn answer(model: &str, version: &str, size: usize) -> Bytes {
    let mut message = BytesMut::new();
    put_field(&mut message, MODEL_NAME, model.as_bytes());
    put_field(&mut message, MODEL_VERSION, version.as_bytes());
    pad(&mut message, ANSWER_RAW_OUTPUTS, size);
    framed(&message)
}

/// A framed `RepositoryIndexResponse`: this one model in this one version is ready.
#[must_use]
pub fn index(model: &str, version: &str) -> Bytes {
    let mut entry = BytesMut::new();
    put_field(&mut entry, 1, model.as_bytes());
    put_field(&mut entry, 2, version.as_bytes());
    put_field(&mut entry, 3, b"READY");
    let mut message = BytesMut::new();
    put_field(&mut message, 1, &entry);
    framed(&message)
}

/// A framed `ServerReadyResponse`, `ServerLiveResponse` or `ModelReadyResponse` that says yes.
#[must_use]
pub fn yes() -> Bytes {
    framed(&[1 << 3, 1])
}

/// What an answer must carry to be counted as good.
pub struct Expected {
    /// The model name that the client must see.
    pub model: String,
    /// How many bytes of output the backend gave.
    pub output_len: usize,
}

impl Expected {
    /// The answer of [`answer`] with the same arguments, seen under the name `seen_as`.
    #[must_use]
    pub fn of(backend_model: &str, version: &str, size: usize, seen_as: &str) -> Self {
        let whole = answer(backend_model, version, size);
        let output_len = fields(&whole[PREFIX..])
            .filter_map(Result::ok)
            .find(|(number, _)| *number == ANSWER_RAW_OUTPUTS)
            .map_or(0, |(_, value)| value.len());
        Self {
            model: seen_as.to_owned(),
            output_len,
        }
    }

    /// Checks one framed answer; the error says what is wrong with it.
    pub fn check(&self, body: &[u8]) -> Result<(), String> {
        let Some((prefix, message)) = body.split_at_checked(PREFIX) else {
            return Err(format!("a body of {} bytes is no gRPC message", body.len()));
        };
        let told = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] != 0 || told != message.len() {
            return Err(format!(
                "flag {}, {told} bytes announced, {} came",
                prefix[0],
                message.len()
            ));
        }
        let (mut model, mut output): (&[u8], Option<&[u8]>) = (b"", None);
        for field in fields(message) {
            match field? {
                (MODEL_NAME, value) => model = value,
                (ANSWER_RAW_OUTPUTS, value) if output.is_none() => output = Some(value),
                (ANSWER_RAW_OUTPUTS, _) => return Err("the output came twice".to_owned()),
                _ => {}
            }
        }
        if model != self.model.as_bytes() {
            return Err(format!(
                "model {:?} instead of {:?}",
                String::from_utf8_lossy(model),
                self.model
            ));
        }
        let output = output.unwrap_or_default();
        if output.len() != self.output_len || output.iter().any(|byte| *byte != 0) {
            return Err(format!(
                "output of {} bytes, not {} zeros",
                output.len(),
                self.output_len
            ));
        }
        Ok(())
    }
}

/// Adds field `number` with zeros so that the message becomes `size` bytes long.
fn pad(message: &mut BytesMut, number: u32, size: usize) {
    let free = size.saturating_sub(message.len() + 1);
    let length_bytes = (1..=5)
        .find(|bytes| free.saturating_sub(*bytes) < 1 << (7 * bytes))
        .unwrap_or(5);
    put_field(message, number, &vec![0; free.saturating_sub(length_bytes)]);
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

fn put_field(out: &mut BytesMut, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | LENGTH_DELIMITED);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The top-level length-delimited fields of a message, in order. The messages here have no others.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u32, &[u8]), String>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| "a field is cut short or not length-delimited".to_owned()))
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let tag = read_varint(rest)?;
    if tag & 7 != LENGTH_DELIMITED {
        return None;
    }
    let len = usize::try_from(read_varint(rest)?).ok()?;
    let (value, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some((u32::try_from(tag >> 3).ok()?, value))
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_exactly_the_asked_size() {
        for size in [40, 64, 150, 151, 300, 20_000, 1 << 20] {
            assert_eq!(
                request("digits", size).len(),
                size + PREFIX,
                "request of {size}"
            );
            assert_eq!(
                answer("m", "1", size).len(),
                size + PREFIX,
                "answer of {size}"
            );
        }
    }

    #[test]
    fn the_unchanged_answer_is_good() {
        let expected = Expected::of("digits.1", "1", 64, "digits.1");
        assert_eq!(expected.check(&answer("digits.1", "1", 64)), Ok(()));
    }

    #[test]
    fn an_answer_renamed_by_appending_is_good_under_the_last_name() {
        let mut message = BytesMut::from(&answer("digits.1", "1", 64)[PREFIX..]);
        put_field(&mut message, MODEL_NAME, b"digits");
        put_field(&mut message, MODEL_VERSION, b"7");

        let renamed = framed(&message);

        assert_eq!(
            Expected::of("digits.1", "1", 64, "digits").check(&renamed),
            Ok(())
        );
        assert!(Expected::of("digits.1", "1", 64, "digits.1")
            .check(&renamed)
            .is_err());
    }

    #[test]
    fn every_kind_of_damage_is_seen() {
        let expected = Expected::of("m", "1", 64, "m");
        let good = answer("m", "1", 64);
        let mut flipped = good.to_vec();
        *flipped.last_mut().unwrap() = 1;
        let mut compressed = good.to_vec();
        compressed[0] = 1;

        assert!(
            expected.check(&good[..good.len() - 1]).is_err(),
            "cut short"
        );
        assert!(expected.check(&[]).is_err(), "empty");
        assert!(expected.check(&flipped).is_err(), "changed output");
        assert!(expected.check(&compressed).is_err(), "flag set");
        assert!(
            expected.check(&answer("m", "1", 65)).is_err(),
            "longer output"
        );
        assert!(
            expected.check(&answer("n", "1", 64)).is_err(),
            "another model"
        );
    }
}
