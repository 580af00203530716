//! Confluent's wire format: a zero byte, the schema's id as four bytes, most significant first, then the record.

const MAGIC: u8 = 0;
pub const LENGTH: usize = 5;

/// The schema's id and the record behind it.
pub fn split(bytes: &[u8]) -> Result<(u32, &[u8]), String> {
    match bytes {
        [MAGIC, a, b, c, d, record @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), record)),
        [] => Err("the record is empty: it does not begin with the id of a schema".into()),
        [MAGIC, ..] => Err(format!(
            "the record has {} bytes, too few for the id of a schema",
            bytes.len()
        )),
        [first, ..] => Err(format!(
            "the record begins with byte {first}, not with 0 and the id of a schema: its writer did not use the registry"
        )),
    }
}

pub fn header(id: u32) -> [u8; LENGTH] {
    let [a, b, c, d] = id.to_be_bytes();
    [MAGIC, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_split_off_again() {
        let mut bytes = header(0x0102_0304).to_vec();
        bytes.push(7);
        assert_eq!(bytes[..5], [0, 1, 2, 3, 4]);
        assert_eq!(split(&bytes), Ok((0x0102_0304, &[7][..])));
        for bytes in [&b""[..], b"\0\0\0\0", b"{\"a\":1}"] {
            assert!(split(bytes).is_err());
        }
    }
}
