//! The `grpc-timeout` header: at most eight digits and a unit.

use std::time::Duration;

const MOST: u128 = 99_999_999;
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Read a `grpc-timeout`; `None` where it is none.
#[must_use]
pub fn parse_grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (&unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    // Eight digits of hours are 3.6e11 seconds: nothing here can overflow.
    match unit {
        b'H' => Some(Duration::from_secs(value * 3600)),
        b'M' => Some(Duration::from_secs(value * 60)),
        b'S' => Some(Duration::from_secs(value)),
        b'm' => Some(Duration::from_millis(value)),
        b'u' => Some(Duration::from_micros(value)),
        b'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// A `grpc-timeout` value, on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcTimeout {
    text: [u8; 9],
    len: u8,
}

impl GrpcTimeout {
    /// Its text, ASCII only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

/// Write a time in the finest unit that fits eight digits, rounded down; at most 99,999,999 hours.
#[must_use]
pub fn format_grpc_timeout(time: Duration) -> GrpcTimeout {
    let nanos = time.as_nanos();
    let (unit, value) = UNITS
        .iter()
        .map(|&(unit, size)| (unit, nanos / size))
        .find(|&(_, value)| value <= MOST)
        .unwrap_or((b'H', MOST));
    let mut rest = u64::try_from(value).unwrap_or(0);
    let mut digits = [0u8; 8];
    let mut count = 0;
    for slot in &mut digits {
        *slot = b'0' + (rest % 10) as u8;
        count += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut text = [0u8; 9];
    for (to, from) in text.iter_mut().zip(digits[..count].iter().rev()) {
        *to = *from;
    }
    text[count] = unit;
    // `count` is at most 8.
    GrpcTimeout {
        text,
        len: (count + 1) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, expected) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("30S", Duration::from_secs(30)),
            ("250m", Duration::from_millis(250)),
            ("00000007u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_hours(99_999_999)),
        ] {
            assert_eq!(
                Some(expected),
                parse_grpc_timeout(text.as_bytes()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_timeout_is_none() {
        for text in [
            "",
            "S",
            "10",
            "1s",
            "123456789S",
            "-1S",
            "1.5S",
            " 1S",
            "1SS",
            "\u{663}S",
        ] {
            assert_eq!(None, parse_grpc_timeout(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn times_are_written_in_the_finest_unit_that_fits() {
        for (time, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_secs(30), "30000000u"),
            (Duration::from_hours(1), "3600000m"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(expected.as_bytes(), format_grpc_timeout(time).as_bytes());
        }
    }

    #[test]
    fn a_written_time_reads_back_at_most_a_sixty_thousandth_shorter() {
        for shift in 0..65 {
            let nanos = 1u128 << shift;
            let time = Duration::new(
                (nanos / 1_000_000_000) as u64,
                (nanos % 1_000_000_000) as u32,
            );

            let back = parse_grpc_timeout(format_grpc_timeout(time).as_bytes()).unwrap();

            assert!(
                back <= time && time.checked_sub(back).unwrap().as_nanos() <= nanos / 60_000,
                "{time:?}"
            );
        }
    }
}
