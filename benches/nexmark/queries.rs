//! The queries as files, and the columns that they read.

use std::path::PathBuf;

use crate::common::Outcome;

pub const COUNT: u32 = 23;

pub struct Query {
    pub number: u32,
    /// What Laminar runs.
    pub stream: String,
    /// What the batch engine runs: the same, unless it has windows.
    pub batch: String,
    /// What the batch engine's table has, as `column` and `struct.field`.
    pub reads: Vec<String>,
}

pub fn query(number: u32) -> Outcome<Query> {
    let stream = text_of(&format!("q{number}.sql"))?;
    let batch = text_of(&format!("q{number}.batch.sql")).unwrap_or_else(|_| stream.clone());
    Ok(Query {
        number,
        stream,
        batch,
        reads: reads(number),
    })
}

/// The SQL in a file of this folder.
pub fn text_of(name: &str) -> Outcome<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("benches/nexmark")
        .join(name);
    Ok(std::fs::read_to_string(path)?.trim_end().to_owned())
}

fn reads(number: u32) -> Vec<String> {
    const PERSON: &[&str] = &["id", "name", "email_address", "credit_card", "city", "state", "extra"];
    const AUCTION: &[&str] = &[
        "id",
        "item_name",
        "description",
        "initial_bid",
        "reserve",
        "expires",
        "seller",
        "category",
        "extra",
    ];
    const BID: &[&str] = &["auction", "bidder", "price", "channel", "url", "extra"];
    const PLAIN_BID: &[&str] = &["auction", "bidder", "price", "extra"];
    let (person, auction, bid): (&[&str], &[&str], &[&str]) = match number {
        0 | 1 | 7 | 10 | 14 => (&[], &[], PLAIN_BID),
        2 | 17 => (&[], &[], &["auction", "price"]),
        3 => (&["id", "name", "city", "state"], &["id", "seller", "category"], &[]),
        4 => (&[], &["id", "category", "expires"], &["auction", "price"]),
        6 => (&[], &["id", "seller", "expires"], &["auction", "price"]),
        5 => (&[], &[], &["auction"]),
        8 => (&["id", "name"], &["seller"], &[]),
        9 => (
            &[],
            &[
                "id",
                "item_name",
                "initial_bid",
                "reserve",
                "expires",
                "seller",
                "category",
            ],
            &["auction", "bidder", "price"],
        ),
        11 | 12 => (&[], &[], &["bidder"]),
        13 | 19 => (&[], &[], &["auction", "bidder", "price"]),
        15 | 16 => (&[], &[], &["auction", "bidder", "price", "channel"]),
        18 => (&[], &[], BID),
        20 => (&[], AUCTION, BID),
        21 | 22 => (&[], &[], &["auction", "bidder", "price", "channel", "url"]),
        _ => (PERSON, AUCTION, BID),
    };
    let fields =
        |of: &str, fields: &[&str]| -> Vec<String> { fields.iter().map(|field| format!("{of}.{field}")).collect() };
    let mut reads = vec!["date_time".to_owned()];
    reads.extend(fields("person", person));
    reads.extend(fields("auction", auction));
    reads.extend(fields("bid", bid));
    reads
}

/// The view of one kind of event over what `reads` names, in the batch engine's words; `None` when nothing is read of it.
pub fn batch_view(kind: &str, reads: &[String]) -> Option<String> {
    let prefix = format!("{kind}.");
    let fields: Vec<String> = reads
        .iter()
        .filter_map(|path| path.strip_prefix(&prefix))
        .map(|field| format!("{kind}['{field}'] AS {field}"))
        .collect();
    let columns = fields.join(", ");
    (!fields.is_empty())
        .then(|| format!("CREATE VIEW {kind} AS SELECT {columns}, date_time FROM nexmark WHERE {kind} IS NOT NULL"))
}
