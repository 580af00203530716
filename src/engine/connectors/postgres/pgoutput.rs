//! Messages of the server's output plugin `pgoutput`, version 1 of its protocol, as the slot gives them one by one.
//!
//! Guarantee: no bytes make it panic. Values are the server's text of them, and may be looked at without being copied.

use crate::engine::error::Error;

#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// `commit`: where in the server's log its commit begins.
    Begin {
        xid: u32,
        commit: u64,
    },
    /// Where the transaction ends in the server's log.
    Commit {
        end: u64,
    },
    Relation(Relation),
    Insert {
        table: u32,
        new: Tuple<'a>,
    },
    /// `old`: its key, or all of it with REPLICA IDENTITY FULL; without, the key is as it was.
    Update {
        table: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        table: u32,
        old: Tuple<'a>,
    },
    Truncate {
        tables: Vec<u32>,
    },
    /// Types, origins, messages of programs: nothing about rows.
    Other,
}

/// What a table looks like from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub table: u32,
    pub schema: String,
    pub name: String,
    pub columns: Vec<RelationColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    pub name: String,
    pub type_oid: u32,
}

pub type Tuple<'a> = Vec<Cell<'a>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    Null,
    /// A large value that an update left as it was; the server does not read it again.
    Unchanged,
    Text(&'a [u8]),
}

pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Error> {
    let mut reader = Reader(bytes);
    let message = match reader.byte()? {
        b'B' => {
            let commit = reader.u64()?;
            reader.skip(8)?;
            Message::Begin {
                xid: reader.u32()?,
                commit,
            }
        }
        b'C' => {
            reader.skip(9)?;
            Message::Commit { end: reader.u64()? }
        }
        b'R' => Message::Relation(reader.relation()?),
        b'I' => {
            let table = reader.u32()?;
            reader.expect(b'N')?;
            Message::Insert {
                table,
                new: reader.tuple()?,
            }
        }
        b'U' => reader.update()?,
        b'D' => {
            let table = reader.u32()?;
            reader.byte()?;
            Message::Delete {
                table,
                old: reader.tuple()?,
            }
        }
        b'T' => {
            let count = reader.u32()?;
            reader.skip(1)?;
            let tables = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
            Message::Truncate { tables }
        }
        _ => Message::Other,
    };
    Ok(message)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Error::Internal("a message of pgoutput ends early".into()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, length: usize) -> Result<(), Error> {
        self.take(length).map(|_| ())
    }

    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Error> {
        match self.byte()? {
            byte if byte == wanted => Ok(()),
            byte => Err(Error::Internal(format!(
                "a message of pgoutput has {byte} in place of {wanted}"
            ))),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.take(N)?;
        bytes
            .try_into()
            .map_err(|_| Error::Internal("a number of pgoutput has another length".into()))
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.number().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.number().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.number().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<String, Error> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| Error::Internal("a name of pgoutput does not end".into()))?;
        let name = self.take(end)?;
        self.skip(1)?;
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn relation(&mut self) -> Result<Relation, Error> {
        let table = self.u32()?;
        let (schema, name) = (self.text()?, self.text()?);
        self.skip(1)?;
        let count = self.u16()?;
        let column = |reader: &mut Self| {
            reader.skip(1)?;
            let name = reader.text()?;
            let type_oid = reader.u32()?;
            reader.skip(4)?;
            Ok(RelationColumn { name, type_oid })
        };
        let columns = (0..count).map(|_| column(self)).collect::<Result<_, Error>>()?;
        Ok(Relation {
            table,
            schema,
            name,
            columns,
        })
    }

    fn update(&mut self) -> Result<Message<'a>, Error> {
        let table = self.u32()?;
        let mut old = None;
        let mut kind = self.byte()?;
        if matches!(kind, b'K' | b'O') {
            old = Some(self.tuple()?);
            kind = self.byte()?;
        }
        if kind != b'N' {
            return Err(Error::Internal("an update of pgoutput has no new row".into()));
        }
        Ok(Message::Update {
            table,
            old,
            new: self.tuple()?,
        })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Error> {
        let count = self.u16()?;
        let cell = |reader: &mut Self| {
            Ok(match reader.byte()? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                _ => {
                    let length = reader.u32()? as usize;
                    Cell::Text(reader.take(length)?)
                }
            })
        };
        (0..count).map(|_| cell(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_taken_apart() {
        let begin = [b"B".as_slice(), &88u64.to_be_bytes(), &[0; 8], &7u32.to_be_bytes()].concat();
        assert_eq!(parse(&begin).unwrap(), Message::Begin { xid: 7, commit: 88 });
        let commit = [b"C".as_slice(), &[0; 9], &99u64.to_be_bytes(), &[0; 8]].concat();
        assert_eq!(parse(&commit).unwrap(), Message::Commit { end: 99 });
        let relation =
            b"R\0\0\0\x05public\0t\0d\0\x02\x01id\0\0\0\0\x14\xff\xff\xff\xff\0name\0\0\0\0\x19\xff\xff\xff\xff";
        let Message::Relation(relation) = parse(relation).unwrap() else {
            panic!("no relation");
        };
        assert_eq!((relation.table, relation.name.as_str()), (5, "t"));
        let columns: Vec<(&str, u32)> = relation.columns.iter().map(|c| (c.name.as_str(), c.type_oid)).collect();
        assert_eq!(columns, [("id", 20), ("name", 25)]);
        let update = b"U\0\0\0\x05K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
        assert_eq!(
            parse(update).unwrap(),
            Message::Update {
                table: 5,
                old: Some(vec![Cell::Text(b"1"), Cell::Null]),
                new: vec![Cell::Text(b"2"), Cell::Unchanged],
            }
        );
        assert_eq!(
            parse(b"T\0\0\0\x01\0\0\0\0\x05").unwrap(),
            Message::Truncate { tables: vec![5] }
        );
        assert_eq!(parse(b"Yxyz").unwrap(), Message::Other);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), kind in "[BCRIUDT]") {
            let message = [kind.as_bytes(), &bytes].concat();
            let _ = parse(&message);
            let _ = parse(&bytes);
        }
    }
}
