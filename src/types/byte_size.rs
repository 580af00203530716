//! Numbers of bytes as people write them: `128 MB`, `1GiB`, `4096`. Units are powers of 1024, as in Postgres.

/// `None` when it is not a whole number above 0 with a known unit, or more than 64 bits hold.
pub fn parse_byte_size(text: &str) -> Option<u64> {
    let plain = text.trim().to_ascii_lowercase().replace('_', "");
    let digits = plain.find(|c: char| !c.is_ascii_digit()).unwrap_or(plain.len());
    let shift = match plain[digits..].trim() {
        "" | "b" | "bytes" => 0,
        "kb" | "kib" | "k" => 10,
        "mb" | "mib" | "m" => 20,
        "gb" | "gib" | "g" => 30,
        "tb" | "tib" | "t" => 40,
        _ => return None,
    };
    let number: u64 = plain[..digits].parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// As Postgres's `pg_size_pretty` says it: the largest unit of which there are ten.
pub fn print_byte_size(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 10 * 1024 && unit + 1 < units.len() {
        value = value.div_ceil(1024);
        unit += 1;
    }
    format!("{value} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, expected) in [
            ("4096", Some(4096)),
            (" 1_000 b", Some(1000)),
            ("128 MB", Some(128 << 20)),
            ("1GiB", Some(1 << 30)),
            ("2 t", Some(2 << 40)),
            ("0 MB", None),
            ("1.5 GB", None),
            ("much", None),
            ("", None),
            ("99999999999 TB", None),
        ] {
            assert_eq!(parse_byte_size(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_said_in_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (512 << 20, "512 MB"),
            (10 << 30, "10 GB"),
            (u64::MAX, "16777216 TB"),
        ] {
            assert_eq!(print_byte_size(bytes), expected);
        }
    }
}
