//! Tensors of a model's metadata, a request of zeros made from them, and whether an answer's bytes fit
//! what it says of itself.

use bytes::BufMut;

use crate::encode::{put_len, put_text, put_varint};
use crate::fields::{read_varint, Field, Fields, Kind, Malformed};

/// Name, datatype and shape, as in `TensorMetadata`, `InferInputTensor` and `InferOutputTensor`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tensor {
    /// Its name in the model.
    pub name: String,
    /// `FP32`, `BYTES`, ...
    pub datatype: String,
    /// -1 where any size is allowed.
    pub shape: Vec<i64>,
    /// Whether `contents` holds typed values.
    typed: bool,
}

impl Tensor {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut tensor = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                1 if field.is(1) => tensor.name = text(&field),
                2 if field.is(2) => tensor.datatype = text(&field),
                3 => read_shape(&field, &mut tensor.shape)?,
                5 => tensor.typed = !field.payload.is_empty(),
                _ => {}
            }
        }
        Ok(tensor)
    }

    /// How many elements there are; `None` where a size is open or they cannot be counted.
    fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |count, size| {
            count.checked_mul(usize::try_from(*size).ok()?)
        })
    }

    /// Whether raw bytes are as many as the shape and the datatype ask for.
    fn fits(&self, raw: &[u8]) -> bool {
        let Some(elements) = self.elements() else {
            return false;
        };
        match (width(&self.datatype), self.datatype.as_str()) {
            (Some(width), _) => elements.checked_mul(width) == Some(raw.len()),
            (None, "BYTES") => strings_in(raw) == Some(elements),
            (None, _) => false,
        }
    }
}

fn text(field: &Field<'_>) -> String {
    String::from_utf8_lossy(field.payload).into_owned()
}

/// A repeated int64, packed or not.
fn read_shape(field: &Field<'_>, shape: &mut Vec<i64>) -> Result<(), Malformed> {
    if field.kind == Kind::Varint {
        shape.extend(field.varint().map(u64::cast_signed));
        return Ok(());
    }
    let mut rest = field.payload;
    while !rest.is_empty() {
        let (value, len) = read_varint(rest)?;
        shape.push(value.cast_signed());
        rest = &rest[len..];
    }
    Ok(())
}

/// Bytes of one element; `None` for `BYTES` and for what is not known.
fn width(datatype: &str) -> Option<usize> {
    Some(match datatype {
        "BOOL" | "INT8" | "UINT8" => 1,
        "INT16" | "UINT16" | "FP16" | "BF16" => 2,
        "INT32" | "UINT32" | "FP32" => 4,
        "INT64" | "UINT64" | "FP64" => 8,
        _ => return None,
    })
}

/// How many strings there are, each behind its length in four bytes; `None` where they are cut.
fn strings_in(mut raw: &[u8]) -> Option<usize> {
    let mut count = 0;
    while let Some((len, rest)) = raw.split_first_chunk::<4>() {
        raw = rest.get(u32::from_le_bytes(*len) as usize..)?;
        count += 1;
    }
    raw.is_empty().then_some(count)
}

/// What a model takes, from a whole `ModelMetadataResponse`.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn inputs_of(metadata: &[u8]) -> Result<Vec<Tensor>, Malformed> {
    let mut inputs = Vec::new();
    for field in Fields::new(metadata) {
        let field = field?;
        if field.is(4) {
            inputs.push(Tensor::read(field.payload)?);
        }
    }
    Ok(inputs)
}

/// The body of a `ModelInferRequest` of zeros, or of empty strings, without names; at most `most` bytes of
/// tensors. `None` where the model leaves open what it takes: only a first size that is open is known, as
/// that of the batch.
#[must_use]
pub fn zeros(inputs: &[Tensor], most: usize) -> Option<Vec<u8>> {
    let (mut out, mut raw, mut total) = (Vec::new(), Vec::new(), 0usize);
    for input in inputs {
        let mut shape = input.shape.clone();
        if let Some(first) = shape.first_mut().filter(|first| **first == -1) {
            *first = 1;
        }
        let input = Tensor {
            shape,
            ..input.clone()
        };
        // An empty string is its length, which is zero, in four bytes.
        let width = width(&input.datatype).or((input.datatype == "BYTES").then_some(4))?;
        let len = input.elements()?.checked_mul(width)?;
        total = total.checked_add(len)?;
        if total > most {
            return None;
        }
        put_input(&mut out, &input);
        put_len(&mut raw, 7, &vec![0; len]);
    }
    out.put_slice(&raw);
    (!inputs.is_empty()).then_some(out)
}

fn put_input(out: &mut Vec<u8>, input: &Tensor) {
    let (mut tensor, mut shape) = (Vec::new(), Vec::new());
    put_text(&mut tensor, 1, &input.name);
    put_text(&mut tensor, 2, &input.datatype);
    for size in &input.shape {
        put_varint(&mut shape, size.cast_unsigned());
    }
    put_len(&mut tensor, 3, &shape);
    put_len(out, 5, &tensor);
}

/// Why a whole `ModelInferResponse` is no answer, for people; `None` where it is one.
#[must_use]
pub fn misfit(message: &[u8]) -> Option<String> {
    let (mut outputs, mut raw) = (Vec::new(), Vec::new());
    for field in Fields::new(message) {
        match field {
            Ok(field) if field.is(5) => match Tensor::read(field.payload) {
                Ok(output) => outputs.push(output),
                Err(error) => return Some(error.to_string()),
            },
            Ok(field) if field.is(6) => raw.push(field.payload),
            Ok(_) => {}
            Err(error) => return Some(error.to_string()),
        }
    }
    if outputs.is_empty() {
        return Some("it has no outputs".to_owned());
    }
    let mut raw = raw.into_iter();
    for output in outputs.iter().filter(|output| !output.typed) {
        let bytes = raw.next().unwrap_or_default();
        if !output.fits(bytes) {
            return Some(format!(
                "output '{}' is {} {:?} and has {} bytes",
                output.name,
                output.datatype,
                output.shape,
                bytes.len()
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64]) -> Tensor {
        Tensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            typed: false,
        }
    }

    /// A message with these tensors in one field and these bytes in another.
    fn message(tensors: (u32, &[Tensor]), raw: (u32, &[&[u8]])) -> Vec<u8> {
        let mut out = Vec::new();
        for one in tensors.1 {
            let mut inner = Vec::new();
            put_input(&mut inner, one);
            // The same layout under another number.
            let field = Fields::new(&inner).next().unwrap().unwrap();
            put_len(&mut out, tensors.0, field.payload);
        }
        for bytes in raw.1 {
            put_len(&mut out, raw.0, bytes);
        }
        out
    }

    #[test]
    fn metadata_gives_what_a_model_takes() {
        let inputs = [
            tensor("image", "FP32", &[-1, 64]),
            tensor("t", "BYTES", &[1]),
        ];
        let metadata = message((4, &inputs), (9, &[]));

        assert_eq!(inputs.to_vec(), inputs_of(&metadata).unwrap());
    }

    #[test]
    fn a_shape_that_is_not_packed_reads_the_same() {
        let mut inner = Vec::new();
        put_text(&mut inner, 2, "FP32");
        for size in [2u64, u64::MAX] {
            put_varint(&mut inner, 3 << 3);
            put_varint(&mut inner, size);
        }

        assert_eq!(vec![2, -1], Tensor::read(&inner).unwrap().shape);
    }

    #[test]
    fn zeros_have_the_shape_that_is_asked_for_with_a_batch_of_one() {
        let inputs = [
            tensor("image", "FP16", &[-1, 3]),
            tensor("t", "BYTES", &[2]),
        ];

        let body = zeros(&inputs, 100).unwrap();

        let fixed = [tensor("image", "FP16", &[1, 3]), tensor("t", "BYTES", &[2])];
        assert_eq!(message((5, &fixed), (7, &[&[0; 6], &[0; 8]])), body);
    }

    #[test]
    fn what_is_open_or_large_or_unknown_has_no_zeros() {
        for input in [
            tensor("open", "FP32", &[-1, -1]),
            tensor("large", "FP32", &[1, 26]),
            tensor("endless", "FP32", &[i64::MAX, 4]),
            tensor("new", "FP4", &[1]),
        ] {
            assert_eq!(None, zeros(std::slice::from_ref(&input), 100), "{input:?}");
        }
        assert_eq!(None, zeros(&[], 100));
    }

    #[test]
    fn an_answer_fits_where_every_output_has_its_bytes() {
        let outputs = [
            tensor("label", "INT64", &[2]),
            tensor("text", "BYTES", &[1, 2]),
        ];
        let strings = b"\x02\0\0\0hi\0\0\0\0";
        let good = message((5, &outputs), (6, &[&[0; 16], strings]));
        assert_eq!(None, misfit(&good));

        for raw in [
            &[&[][..], &[]][..],
            &[&[0; 16]],
            &[&[0; 15], strings],
            &[&[0; 16], &strings[..9]],
            &[&[0; 16], &strings[..6]],
        ] {
            let bad = message((5, &outputs), (6, raw));
            assert!(misfit(&bad).is_some(), "{raw:?}");
        }
    }

    #[test]
    fn an_ok_without_outputs_is_no_answer() {
        assert!(misfit(b"").is_some());
        assert!(misfit(b"\x0a\x01m").is_some());
    }

    #[test]
    fn typed_contents_need_no_bytes() {
        let mut inner = Vec::new();
        put_text(&mut inner, 1, "label");
        put_text(&mut inner, 2, "INT32");
        put_len(&mut inner, 3, &[1]);
        put_len(&mut inner, 5, b"\x12\x01\x07");
        let mut answer = Vec::new();
        put_len(&mut answer, 5, &inner);

        assert_eq!(None, misfit(&answer));
    }
}
