//! The model name and version of a request: fields 1 and 2 of all inference requests; and where its
//! parameters are, field 4, for [`params`](crate::params).
//!
//! Protobuf keeps the last value of a singular field, wherever it stands, so both readers here look
//! at every field of the message before they call it complete.

use crate::encode::{len_size, put_varint};
use crate::fields::{split_tag, Fields, Kind, Malformed, VarintReader, BEYOND_END, CUT_SHORT};
use crate::params::{self, Params};

/// Bytes of one name that are kept by [`NameScanner`]. Longer than any name that is allowed, so what
/// is cut here is refused for its length later.
pub const KEPT: usize = 1024;

/// Bytes of parameters that are kept by [`NameScanner`]; entries beyond are passed over.
pub const KEPT_PARAMETERS: usize = 16 << 10;

/// The two names of a request; an absent one is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Names<'a> {
    /// Field 1, not checked.
    pub model: &'a [u8],
    /// Field 2, not checked.
    pub version: &'a [u8],
    /// Where all of field 4 is, as it stands in the message, perhaps with other fields between; empty
    /// where a request has no parameters.
    pub parameters: &'a [u8],
}

impl<'a> Names<'a> {
    /// The names of something that has no parameters.
    #[must_use]
    pub fn of(model: &'a [u8], version: &'a [u8]) -> Self {
        Self {
            model,
            version,
            parameters: b"",
        }
    }
}

/// Read the names of a whole message; everything else is skipped by length. Allocates nothing.
///
/// # Errors
/// The bytes are no protobuf message to their very end.
pub fn scan_message(msg: &[u8]) -> Result<Names<'_>, Malformed> {
    let mut names = Names::default();
    let mut fields = Fields::new(msg);
    let mut begin = None;
    while let Some(field) = fields.next() {
        let field = field?;
        if field.kind == Kind::Len {
            match field.number {
                1 => names.model = field.payload,
                2 => names.version = field.payload,
                params::FIELD => {
                    let end = msg.len() - fields.left();
                    names.parameters = &msg[*begin.get_or_insert(end - field.raw.len())..end];
                }
                _ => {}
            }
        }
    }
    Ok(names)
}

#[derive(Debug, Clone, Copy)]
enum State {
    Tag(VarintReader),
    Length(u32, VarintReader),
    Value(VarintReader),
    Skip(usize),
    Capture(u32, usize),
}

const START: State = State::Tag(VarintReader::NEW);

/// Reads the names of a message that arrives in pieces of any size.
///
/// Keeps at most [`KEPT`] bytes of each name, at most [`KEPT_PARAMETERS`] of the parameters that come
/// before the names are decided, and nothing else of the message.
#[derive(Debug)]
pub struct NameScanner {
    state: State,
    left: usize,
    model: Vec<u8>,
    version: Vec<u8>,
    parameters: Vec<u8>,
    capture: Vec<u8>,
    model_seen: bool,
    decided: bool,
    changed: bool,
}

impl NameScanner {
    /// A scanner for a message of that many bytes (the prefix is not part of it).
    #[must_use]
    pub fn new(message_len: usize) -> Self {
        Self {
            state: START,
            left: message_len,
            model: Vec::new(),
            version: Vec::new(),
            parameters: Vec::new(),
            capture: Vec::new(),
            model_seen: false,
            decided: message_len == 0,
            changed: false,
        }
    }

    /// Take the next piece of the message.
    ///
    /// # Errors
    /// The message is malformed, or the piece goes beyond its announced length. The scanner is of no
    /// use after that.
    pub fn feed(&mut self, mut chunk: &[u8]) -> Result<(), Malformed> {
        if chunk.len() > self.left {
            return Err(Malformed("more bytes than its prefix announced"));
        }
        while !chunk.is_empty() {
            chunk = match self.state {
                State::Skip(size) => self.skip(chunk, size),
                State::Capture(field, size) => self.capture(chunk, field, size),
                _ => self.byte(chunk)?,
            };
        }
        if self.left == 0 {
            if !matches!(self.state, State::Tag(reader) if reader.is_new()) {
                return Err(CUT_SHORT);
            }
            self.decided = true;
        }
        Ok(())
    }

    /// Whether the names can be acted on: field 1 was read and a field beyond the parameters has begun
    /// after it, or the message is complete. Never turns back to false.
    #[must_use]
    pub fn decided(&self) -> bool {
        self.decided
    }

    /// Whether the whole message was read.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.left == 0
    }

    /// The names: the last ones so far, or those decided on.
    #[must_use]
    pub fn names(&self) -> Names<'_> {
        Names {
            model: &self.model,
            version: &self.version,
            parameters: &self.parameters,
        }
    }

    /// Whether a later field gave another name than the one decided on, or a sequence; such a message
    /// must be refused, because it was perhaps already sent on by what was known.
    #[must_use]
    pub fn changed_since_decided(&self) -> bool {
        self.changed
    }

    fn byte<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], Malformed> {
        let Some((&byte, rest)) = chunk.split_first() else {
            return Ok(chunk);
        };
        self.left -= 1;
        match &mut self.state {
            State::Tag(reader) => {
                if let Some(tag) = reader.push(byte)? {
                    let (number, kind) = split_tag(tag)?;
                    self.begin(number, kind)?;
                }
            }
            State::Length(number, reader) => {
                let number = *number;
                if let Some(len) = reader.push(byte)? {
                    let len = usize::try_from(len).map_err(|_| BEYOND_END)?;
                    self.payload(number, len)?;
                }
            }
            State::Value(reader) => {
                if reader.push(byte)?.is_some() {
                    self.state = START;
                }
            }
            State::Skip(_) | State::Capture(..) => {}
        }
        Ok(rest)
    }

    fn begin(&mut self, number: u32, kind: Kind) -> Result<(), Malformed> {
        if number > params::FIELD && self.model_seen {
            self.decided = true;
        }
        match kind {
            Kind::Varint => self.state = State::Value(VarintReader::NEW),
            Kind::Len => self.state = State::Length(number, VarintReader::NEW),
            Kind::Fixed64 => return self.payload(0, 8),
            Kind::Fixed32 => return self.payload(0, 4),
        }
        Ok(())
    }

    fn payload(&mut self, number: u32, len: usize) -> Result<(), Malformed> {
        if len > self.left {
            return Err(BEYOND_END);
        }
        self.state = match number {
            params::FIELD => {
                if self.parameters.len() + len_size(number, len) > KEPT_PARAMETERS {
                    self.state = if len == 0 { START } else { State::Skip(len) };
                    return Ok(());
                }
                self.capture.clear();
                put_varint(&mut self.capture, u64::from(number) << 3 | 2);
                put_varint(&mut self.capture, len as u64);
                if len == 0 {
                    self.captured(number);
                    return Ok(());
                }
                State::Capture(number, len)
            }
            1 | 2 => {
                self.capture.clear();
                if len == 0 {
                    self.captured(number);
                    return Ok(());
                }
                State::Capture(number, len)
            }
            _ if len == 0 => START,
            _ => State::Skip(len),
        };
        Ok(())
    }

    fn skip<'c>(&mut self, chunk: &'c [u8], size: usize) -> &'c [u8] {
        let take = size.min(chunk.len());
        self.left -= take;
        self.state = if take == size {
            START
        } else {
            State::Skip(size - take)
        };
        &chunk[take..]
    }

    fn capture<'c>(&mut self, chunk: &'c [u8], number: u32, size: usize) -> &'c [u8] {
        let take = size.min(chunk.len());
        let most = if number == params::FIELD {
            KEPT_PARAMETERS
        } else {
            KEPT
        };
        let room = most.saturating_sub(self.capture.len());
        self.capture.extend_from_slice(&chunk[..take.min(room)]);
        self.left -= take;
        if take == size {
            self.captured(number);
        } else {
            self.state = State::Capture(number, size - take);
        }
        &chunk[take..]
    }

    fn captured(&mut self, number: u32) {
        self.state = START;
        if number == params::FIELD {
            self.captured_parameter();
            return;
        }
        let name = if number == 1 {
            &mut self.model
        } else {
            &mut self.version
        };
        if self.decided {
            self.changed |= *name != self.capture;
        } else {
            std::mem::swap(name, &mut self.capture);
            self.model_seen |= number == 1;
        }
    }

    fn captured_parameter(&mut self) {
        if self.decided {
            self.changed |= Params::scan(&self.capture).sequence.is_some();
        } else {
            self.parameters.extend_from_slice(&self.capture);
        }
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
pub(crate) mod tests;
