//! From when until when a certificate is valid. rustls checks it of peers and shows it of nobody.

/// Unix seconds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: i64,
    pub(crate) until: i64,
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Of a certificate in DER. `None` where it is none.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let (mut outer, _) = expect(certificate, SEQUENCE)?;
        (outer, _) = expect(outer, SEQUENCE)?;
        if *outer.first()? == VERSION {
            outer = element(outer)?.2;
        }
        // Serial number, algorithm and issuer come before.
        for _ in 0..3 {
            outer = element(outer)?.2;
        }
        let (times, _) = expect(outer, SEQUENCE)?;
        let (kind, from, rest) = element(times)?;
        let (other_kind, until, _) = element(rest)?;
        Some(Self {
            from: seconds(kind, from)?,
            until: seconds(other_kind, until)?,
        })
    }
}

/// Content of an element of that kind, and what follows it.
fn expect(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == kind).then_some((content, rest))
}

/// Kind and content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, bytes) = bytes.split_first()?;
    let (&first, mut bytes) = bytes.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, rest) = bytes.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 3 {
            return None;
        }
        length = digits
            .iter()
            .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
        bytes = rest;
    }
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((kind, content, rest))
}

/// `YYMMDDhhmmssZ`, or the same with a year of four digits.
fn seconds(kind: u8, text: &[u8]) -> Option<i64> {
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let digits = rest.strip_suffix(b"Z").filter(|rest| rest.len() == 10)?;
    let mut parts = [0; 5];
    for (part, pair) in parts.iter_mut().zip(digits.chunks(2)) {
        *part = number(pair)?;
    }
    let [month, day, hour, minute, second] = parts;
    ((1..=12).contains(&month) && (1..=31).contains(&day))
        .then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + i64::from(digit - b'0'))
    })
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let known: [(u8, &[u8], i64); 5] = [
            (UTC_TIME, b"700101000000Z", 0),
            (UTC_TIME, b"000229120000Z", 951_825_600),
            (UTC_TIME, b"491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, b"20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, b"21000301000000Z", 4_107_542_400),
        ];
        for (kind, text, unix) in known {
            assert_eq!(Some(unix), seconds(kind, text));
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            &b"700101000000"[..],
            b"70010100000Z",
            b"701301000000Z",
            b"7001010000x0Z",
            b"",
        ] {
            assert_eq!(None, seconds(UTC_TIME, text), "{text:?}");
        }
        assert_eq!(None, seconds(0x16, b"700101000000Z"));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_none() {
        for bytes in [
            &b""[..],
            b"0",
            &[0x30, 0x84, 1, 1, 1, 1],
            &[0x30, 2, 0x30, 9],
            &[0x30; 64],
        ] {
            assert_eq!(None, Validity::of(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn it_stands_after_version_serial_algorithm_and_issuer() {
        let times = [
            &[0x30, 30, UTC_TIME, 13][..],
            b"700101000000Z",
            &[UTC_TIME, 13],
            b"700102000000Z",
        ]
        .concat();
        let before = [0xa0, 3, 2, 1, 2, 2, 1, 9, 0x30, 0, 0x30, 0];
        let inner = [&before[..], &times].concat();
        let outer = [&[0x30, inner.len() as u8][..], &inner].concat();
        let certificate = [&[0x30, outer.len() as u8][..], &outer].concat();

        let day = Validity {
            from: 0,
            until: 86_400,
        };
        assert_eq!(Some(day), Validity::of(&certificate));
    }
}
