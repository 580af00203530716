//! The messages of a slot as changes of one table: which transactions count, and what each makes of a row.
//!
//! A row that comes is a whole row, one that goes has its key: they replace each other by the PRIMARY KEY of the table. No I/O here.
//!
//! A transaction that the snapshot has seen is in it already and is left out: [`SeenBySnapshot`] knows them by their numbers, so
//! that no row is read twice and none goes back to what it was.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;

use crate::engine::connectors::Result;
use crate::engine::connectors::postgres::columns;
use crate::engine::connectors::postgres::pgoutput::{Cell, Message, Relation, Tuple};
use crate::engine::connectors::postgres::row_json::{Form, write_member};
use crate::engine::connectors::postgres::target::refused;
use crate::engine::error::Error;
use crate::error::SqlState;
use crate::types::SqlType;

/// Where the reader stands, as it is checkpointed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesOffset {
    /// The snapshot is being read: the next reader has to read it again.
    #[serde(default)]
    pub in_snapshot: bool,
    /// Transactions that end up to here in the server's log are done.
    pub log: u64,
    /// Rows of the transaction after them that are done, too.
    #[serde(default)]
    pub rows: u64,
    /// Until the log has passed the snapshot.
    #[serde(default)]
    pub snapshot: Option<SeenBySnapshot>,
}

/// Which transactions a snapshot saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenBySnapshot {
    /// All before it.
    xmin: u64,
    /// None from here on.
    xmax: u64,
    /// Between the two, not those that were under way.
    under_way: Vec<u64>,
    /// Transactions that end later in the log are not seen.
    until: u64,
}

impl SeenBySnapshot {
    /// `text`: of `pg_current_snapshot()`, `xmin:xmax:xid,xid`.
    pub fn parse(text: &str, until: u64) -> Result<SeenBySnapshot> {
        let wrong = || Error::Internal(format!("the Postgres server's snapshot is \"{text}\""));
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong);
        let (xmin, xmax) = (number()?, number()?);
        let under_way = parts
            .next()
            .unwrap_or_default()
            .split(',')
            .filter(|xid| !xid.is_empty());
        let under_way = under_way.map(|xid| xid.parse().map_err(|_| wrong()));
        Ok(SeenBySnapshot {
            xmin,
            xmax,
            under_way: under_way.collect::<Result<_>>()?,
            until,
        })
    }

    /// The log has the lower half of a transaction's number; it is one of the two thousand million around the snapshot.
    fn saw(&self, xid: u32) -> bool {
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        let whole = self.xmax.saturating_add_signed(i64::from(distance));
        whole < self.xmin || whole < self.xmax && !self.under_way.contains(&whole)
    }
}

/// Rows as JSON lines, each with its sign.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub lines: Vec<u8>,
    pub signs: Vec<i8>,
}

impl Rows {
    pub fn is_empty(&self) -> bool {
        self.signs.is_empty()
    }

    /// A row as the server writes it in JSON: line feeds stand between its values only.
    pub fn push_object(&mut self, sign: i8, object: &str) {
        let line = object.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte });
        self.lines.extend(line);
        self.lines.push(b'\n');
        self.signs.push(sign);
    }
}

/// Follows the messages.
pub struct ChangeReader {
    schema: SchemaRef,
    /// Positions in `schema`.
    key: Vec<usize>,
    /// `schema.name`, as the server has it.
    table: (String, String),
    named: String,
    offset: ChangesOffset,
    /// The tables of the server that are ours: where each column of `schema` is among theirs.
    known: HashMap<u32, Vec<usize>>,
    transaction: Option<Transaction>,
    pub rows: Rows,
}

struct Transaction {
    /// It is in the snapshot, or was read by an earlier reader.
    seen: bool,
    /// So far.
    rows: u64,
}

impl ChangeReader {
    pub fn new(
        schema: SchemaRef,
        key: Vec<usize>,
        table: (String, String),
        named: String,
        offset: ChangesOffset,
    ) -> ChangeReader {
        ChangeReader {
            schema,
            key,
            table,
            named,
            offset,
            known: HashMap::new(),
            transaction: None,
            rows: Rows::default(),
        }
    }

    /// What was read so far, and where the next reader goes on after it.
    pub fn take(&mut self) -> (Rows, ChangesOffset) {
        let mut offset = self.offset.clone();
        if let Some(transaction) = &self.transaction {
            offset.rows = offset.rows.max(transaction.rows);
        }
        (std::mem::take(&mut self.rows), offset)
    }

    /// Everything that ends up to `log` has been read.
    pub fn reached(&mut self, log: u64) {
        if log > self.offset.log {
            self.offset.log = log;
            self.offset.rows = 0;
        }
        if self
            .offset
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.until <= log)
        {
            self.offset.snapshot = None;
        }
    }

    pub fn read(&mut self, message: Message<'_>) -> Result<()> {
        match message {
            Message::Begin { xid, commit } => {
                let in_snapshot = self.offset.snapshot.as_ref().is_some_and(|snapshot| snapshot.saw(xid));
                // The slot begins where the last durable checkpoint was, perhaps before the last one.
                let seen = in_snapshot || commit < self.offset.log;
                self.transaction = Some(Transaction { seen, rows: 0 });
            }
            Message::Commit { end } => {
                self.transaction = None;
                self.reached(end);
            }
            Message::Relation(relation) => self.know(&relation)?,
            Message::Insert { table, new } => self.change(table, None, Some(new))?,
            Message::Update { table, old, new } => self.change(table, old, Some(new))?,
            Message::Delete { table, old } => self.change(table, Some(old), None)?,
            Message::Truncate { tables } => {
                if tables.iter().any(|table| self.known.contains_key(table)) && !self.is_seen() {
                    return Err(refused(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        format!("{} was truncated, which cannot be followed", self.named),
                        "Use DELETE there; RESTART PIPELINE .. FROM CHECKPOINT 0 reads the table anew.",
                    ));
                }
            }
            Message::Other => {}
        }
        Ok(())
    }

    fn is_seen(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.seen)
    }

    /// The table as it is from here on: what was added to it is left out, what is declared must be there.
    fn know(&mut self, relation: &Relation) -> Result<()> {
        if (relation.schema.as_str(), relation.name.as_str()) != (self.table.0.as_str(), self.table.1.as_str()) {
            self.known.remove(&relation.table);
            return Ok(());
        }
        let mut places = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let place = relation.columns.iter().position(|column| column.name == *field.name());
            let Some(place) = place else {
                return Err(changed(format!(
                    "column \"{}\" is gone from {}",
                    field.name(),
                    self.named
                )));
            };
            let of = Type::from_oid(relation.columns[place].type_oid);
            let declared = SqlType::from_arrow_field(field);
            if !declared
                .as_ref()
                .is_some_and(|declared| columns::still_fits(of.as_ref(), declared))
            {
                let now = of.map_or_else(|| "another type".to_owned(), |of| of.name().to_owned());
                let message = format!(
                    "column \"{}\" of {} has become {now}, which does not fit",
                    field.name(),
                    self.named
                );
                return Err(changed(message));
            }
            places.push(place);
        }
        self.known.insert(relation.table, places);
        Ok(())
    }

    fn change<'a>(&mut self, table: u32, old: Option<Tuple<'a>>, new: Option<Tuple<'a>>) -> Result<()> {
        let Some(places) = self.known.get(&table) else {
            return Ok(());
        };
        if self.is_seen() {
            return Ok(());
        }
        let places = places.clone();
        let gone = old.as_ref().filter(|old| match &new {
            // With the whole old row it says so when the key is as it was.
            Some(new) => self
                .key
                .iter()
                .any(|&at| cell(old, places[at]) != cell(new, places[at])),
            None => true,
        });
        if let Some(gone) = gone {
            self.push(-1, |at, key| if key { cell(gone, places[at]) } else { Cell::Null });
        }
        let Some(new) = new else { return Ok(()) };
        let whole = |at: usize| match (cell(&new, places[at]), &old) {
            (Cell::Unchanged, Some(old)) => match cell(old, places[at]) {
                Cell::Null | Cell::Unchanged => Cell::Unchanged,
                text @ Cell::Text(_) => text,
            },
            (cell, _) => cell,
        };
        if let Some(at) = (0..places.len()).find(|&at| whole(at) == Cell::Unchanged) {
            return Err(refused(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "an update of {} left the large value of column \"{}\" as it was, and the server does not say what it is",
                    self.named,
                    self.schema.field(at).name()
                ),
                "On the server: ALTER TABLE .. REPLICA IDENTITY FULL; then RESTART PIPELINE .. FROM CHECKPOINT 0.",
            ));
        }
        self.push(1, |at, _| whole(at));
        Ok(())
    }

    /// A row, unless it was taken by an earlier reader.
    fn push<'c>(&mut self, sign: i8, cell: impl Fn(usize, bool) -> Cell<'c>) {
        if let Some(transaction) = &mut self.transaction {
            transaction.rows += 1;
            if transaction.rows <= self.offset.rows {
                return;
            }
        }
        let lines = &mut self.rows.lines;
        lines.push(b'{');
        for (at, field) in self.schema.fields().iter().enumerate() {
            write_member(field.name(), &Form::of(field), cell(at, self.key.contains(&at)), lines);
        }
        lines.extend_from_slice(b"}\n");
        self.rows.signs.push(sign);
    }
}

fn cell<'a>(tuple: &[Cell<'a>], place: usize) -> Cell<'a> {
    tuple.get(place).copied().unwrap_or(Cell::Null)
}

fn changed(message: String) -> Error {
    refused(
        SqlState::DATATYPE_MISMATCH,
        message,
        "Put it back, or drop the table and its pipeline and declare what it is now.",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::connectors::postgres::pgoutput::RelationColumn;
    use crate::engine::connectors::postgres::tests::columns;
    use crate::error::Report;

    fn reader(offset: ChangesOffset) -> ChangeReader {
        let table = ("public".to_owned(), "t".to_owned());
        let mut reader = ChangeReader::new(
            columns("id BIGINT, name TEXT"),
            vec![0],
            table,
            "table \"t\"".into(),
            offset,
        );
        reader
            .read(Message::Relation(relation(&[("name", 25), ("extra", 16), ("id", 20)])))
            .unwrap();
        reader
    }

    fn relation(columns: &[(&str, u32)]) -> Relation {
        let column = |(name, type_oid): &(&str, u32)| RelationColumn {
            name: (*name).to_owned(),
            type_oid: *type_oid,
        };
        Relation {
            table: 5,
            schema: "public".into(),
            name: "t".into(),
            columns: columns.iter().map(column).collect(),
        }
    }

    /// `name extra id`.
    fn row(text: &str) -> Tuple<'_> {
        let cell = |text| match text {
            "-" => Cell::Null,
            "?" => Cell::Unchanged,
            text => Cell::Text(str::as_bytes(text)),
        };
        text.split(' ').map(cell).collect()
    }

    fn transaction(reader: &mut ChangeReader, xid: u32, end: u64, changes: Vec<Message<'_>>) -> Result<()> {
        reader.read(Message::Begin { xid, commit: end - 1 })?;
        for change in changes {
            reader.read(change)?;
        }
        reader.read(Message::Commit { end })
    }

    fn insert(new: &str) -> Message<'_> {
        Message::Insert {
            table: 5,
            new: row(new),
        }
    }

    fn update<'a>(old: Option<&'a str>, new: &'a str) -> Message<'a> {
        Message::Update {
            table: 5,
            old: old.map(row),
            new: row(new),
        }
    }

    fn shown(rows: &Rows) -> Vec<String> {
        let lines = std::str::from_utf8(&rows.lines).unwrap().lines();
        lines
            .zip(&rows.signs)
            .map(|(line, sign)| format!("{sign} {line}"))
            .collect()
    }

    #[test]
    fn changes_become_rows_that_come_and_go() {
        let mut reader = reader(ChangesOffset::default());
        let changes = vec![
            insert("a t 1"),
            update(None, "b t 1"),
            // The key changes; the second has the whole old row.
            update(Some("- - 1"), "c t 2"),
            update(Some("c t 2"), "? t 2"),
            Message::Delete {
                table: 5,
                old: row("- - 2"),
            },
            Message::Insert {
                table: 9,
                new: row("another table 1"),
            },
        ];
        transaction(&mut reader, 7, 100, changes).unwrap();
        let (rows, offset) = reader.take();
        assert_eq!(
            shown(&rows),
            [
                r#"1 {"id":"1","name":"a"}"#,
                r#"1 {"id":"1","name":"b"}"#,
                r#"-1 {"id":"1","name":null}"#,
                r#"1 {"id":"2","name":"c"}"#,
                r#"1 {"id":"2","name":"c"}"#,
                r#"-1 {"id":"2","name":null}"#,
            ]
        );
        assert_eq!((offset.log, offset.rows), (100, 0));
    }

    #[test]
    fn a_transaction_in_pieces_goes_on_where_it_was() {
        let mut first = reader(ChangesOffset::default());
        first.read(Message::Begin { xid: 7, commit: 99 }).unwrap();
        first.read(insert("a t 1")).unwrap();
        let (rows, offset) = first.take();
        assert_eq!((rows.signs.len(), offset.log, offset.rows), (1, 0, 1));
        let mut second = reader(offset);
        transaction(&mut second, 7, 100, vec![insert("a t 1"), insert("b t 2")]).unwrap();
        transaction(&mut second, 7, 100, vec![insert("again t 1")]).unwrap();
        transaction(&mut second, 8, 120, vec![insert("c t 3")]).unwrap();
        let (rows, offset) = second.take();
        assert_eq!(
            shown(&rows),
            [r#"1 {"id":"2","name":"b"}"#, r#"1 {"id":"3","name":"c"}"#]
        );
        assert_eq!((offset.log, offset.rows), (120, 0));
    }

    #[test]
    fn what_the_snapshot_saw_is_left_out() {
        let whole = (3_u64 << 32) + 10;
        let text = format!("{}:{}:{},{}", whole - 4, whole, whole - 4, whole - 2);
        let snapshot = SeenBySnapshot::parse(&text, 500).unwrap();
        let seen: Vec<u32> = (0..20).filter(|xid| snapshot.saw(*xid)).collect();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 7, 9]);
        assert!(snapshot.saw(u32::MAX), "of the round before");
        let mut reader = reader(ChangesOffset {
            snapshot: Some(snapshot),
            ..ChangesOffset::default()
        });
        transaction(
            &mut reader,
            7,
            100,
            vec![insert("a t 1"), Message::Truncate { tables: vec![5] }],
        )
        .unwrap();
        transaction(&mut reader, 8, 110, vec![insert("b t 2")]).unwrap();
        let (rows, offset) = reader.take();
        assert_eq!(shown(&rows), [r#"1 {"id":"2","name":"b"}"#]);
        assert!(offset.snapshot.is_some());
        reader.reached(500);
        transaction(&mut reader, 7, 600, vec![insert("c t 3")]).unwrap();
        let (rows, offset) = reader.take();
        assert_eq!(shown(&rows), [r#"1 {"id":"3","name":"c"}"#], "another of this number");
        assert_eq!(offset.snapshot, None);
    }

    #[test]
    fn what_cannot_be_followed_says_so() {
        let mut same = reader(ChangesOffset::default());
        let said = |error: Error| format!("{} {error}", error.code().as_str());
        let error = transaction(&mut same, 7, 100, vec![update(None, "? t 1")]).unwrap_err();
        assert!(error.hint().unwrap().contains("REPLICA IDENTITY FULL"));
        assert!(said(error).starts_with("55000 an update of table \"t\" left the large value of column \"name\""));
        let error = transaction(&mut same, 7, 100, vec![Message::Truncate { tables: vec![5] }]).unwrap_err();
        assert_eq!(said(error), "0A000 table \"t\" was truncated, which cannot be followed");
        let error = same.read(Message::Relation(relation(&[("id", 20)]))).unwrap_err();
        assert_eq!(said(error), "42804 column \"name\" is gone from table \"t\"");
        let error = same
            .read(Message::Relation(relation(&[("id", 1700), ("name", 25)])))
            .unwrap_err();
        assert_eq!(
            said(error),
            "42804 column \"id\" of table \"t\" has become numeric, which does not fit"
        );
        // Narrower is fine, and so is more.
        same.read(Message::Relation(relation(&[("id", 23), ("name", 1043), ("more", 25)])))
            .unwrap();
    }
}
