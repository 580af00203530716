//! Decimals as formats have them in bytes: a whole number in two's complement, the most significant byte first, and digits after the point.

/// The number; `None` when it has more bits than 128.
pub fn number_of(bytes: &[u8]) -> Option<i128> {
    let is_negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let filler = if is_negative { 0xff } else { 0 };
    let (padding, digits) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut whole = [filler; 16];
    whole[16 - digits.len()..].copy_from_slice(digits);
    let number = i128::from_be_bytes(whole);
    let is_whole = padding.iter().all(|byte| *byte == filler) && (number < 0) == is_negative;
    is_whole.then_some(number)
}

/// The bytes of a number without the leading ones that say nothing.
pub fn shortest(bytes: &[u8; 16]) -> &[u8] {
    let is_negative = bytes[0] >= 0x80;
    let filler: u8 = if is_negative { 0xff } else { 0 };
    let spare = bytes.iter().take_while(|byte| **byte == filler).count().min(15);
    // The sign must show in the first bit that is left.
    match (bytes[spare] >= 0x80) == is_negative {
        true => &bytes[spare..],
        false => &bytes[spare.saturating_sub(1)..],
    }
}

/// As a number of `scale` digits after the point, rounded half away from zero; `None` when it has more than `precision` digits.
pub fn rescaled(number: i128, from: i32, precision: u8, scale: i8) -> Option<i128> {
    let by = i32::from(scale).checked_sub(from)?;
    let factor = 10i128.checked_pow(by.unsigned_abs());
    let scaled = match (by >= 0, factor) {
        _ if number == 0 => 0,
        (true, factor) => number.checked_mul(factor?)?,
        (false, Some(factor)) => {
            let (whole, rest) = (number / factor, number % factor);
            let up = rest.abs() >= factor - factor / 2;
            whole + if up { number.signum() } else { 0 }
        }
        (false, None) => 0,
    };
    let limit = 10i128.checked_pow(precision.into())?;
    (scaled.unsigned_abs() < limit.unsigned_abs()).then_some(scaled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: i128, padding in 0..4usize) {
            let bytes = number.to_be_bytes();
            let short = shortest(&bytes);
            prop_assert_eq!(number_of(short), Some(number));
            let filler = if number < 0 { 0xff } else { 0 };
            let padded = [&vec![filler; padding][..], short].concat();
            prop_assert_eq!(number_of(&padded), Some(number));
        }
    }

    #[test]
    fn bytes_are_as_few_as_can_be() {
        for (number, count) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (-128, 1),
            (-129, 2),
            (i128::MIN, 16),
            (i128::MAX, 16),
        ] {
            assert_eq!(shortest(&number.to_be_bytes()).len(), count, "{number}");
        }
        assert_eq!(number_of(&[]), Some(0));
        assert_eq!(number_of(&[1; 17]), None);
        assert_eq!(number_of(&[0x7f; 16]).map(|_| ()), Some(()));
        let mut too_large = vec![0];
        too_large.extend([0xff; 16]);
        assert_eq!(number_of(&too_large), None);
    }

    #[test]
    fn what_is_finer_is_rounded_and_what_is_too_large_is_none() {
        assert_eq!(rescaled(125, 2, 10, 1), Some(13));
        assert_eq!(rescaled(-125, 2, 10, 1), Some(-13));
        assert_eq!(rescaled(124, 2, 10, 1), Some(12));
        assert_eq!(rescaled(5, -2, 10, 1), Some(5000));
        assert_eq!(rescaled(995, 1, 2, 0), None);
        assert_eq!(rescaled(5, 100, 10, 0), Some(0));
        assert_eq!(rescaled(5, i32::MIN, 10, 0), None);
        assert_eq!(rescaled(0, -1000, 10, 0), Some(0));
        assert_eq!(rescaled(i128::MIN, 0, 38, 0), None);
    }
}
