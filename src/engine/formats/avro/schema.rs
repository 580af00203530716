//! Avro schemas as they are written in JSON, parsed into a table of nodes.
//!
//! Named types stand once in the table, so that a schema may refer to itself. Logical types that Avro's specification would have
//! ignored (on a type that they do not fit) are ignored. Kafka Connect's and Debezium's own names for times and the like
//! (`connect.name`) count as the logical types that they mean.

use std::collections::HashMap;

use serde_json::{Map, Value};

pub type NodeId = usize;

#[derive(Clone, Debug, PartialEq)]
pub struct AvroSchema {
    nodes: Vec<Node>,
    pub root: NodeId,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub kind: Kind,
    pub logical: Logical,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed { name: String, size: usize },
    Enum { name: String, symbols: Vec<String> },
    Record { name: String, fields: Vec<RecordField> },
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecordField {
    pub name: String,
    pub node: NodeId,
    pub default: Option<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logical {
    #[default]
    None,
    Decimal {
        precision: u32,
        scale: u32,
    },
    Uuid,
    Date,
    Time(Unit),
    /// A point in time.
    Timestamp(Unit),
    /// What a clock on the wall shows.
    LocalTimestamp(Unit),
    /// A point in time as text.
    ZonedText,
    Duration,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// Deeper schemas are refused, deeper values of recursive types as well.
pub const DEPTH_MAX: usize = 64;

impl AvroSchema {
    /// `references`: name and text of schemas that `text` refers to, each after those that it refers to itself.
    pub fn parse(text: &str, references: &[(String, String)]) -> Result<AvroSchema, String> {
        let mut parser = Parser::default();
        for (name, text) in references {
            let node = parser.schema(&json(text)?, None, 0)?;
            // Registries call a reference by the type's full name, but need not.
            parser.names.entry(name.clone()).or_insert(node);
        }
        let root = parser.schema(&json(text)?, None, 0)?;
        Ok(AvroSchema {
            nodes: parser.nodes,
            root,
        })
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The fields of the record that the whole schema is.
    pub fn record(&self) -> Result<(&str, &[RecordField]), String> {
        match &self.node(self.root).kind {
            Kind::Record { name, fields } => Ok((name, fields)),
            _ => Err(format!("the Avro schema is {}, not a record", self.describe(self.root))),
        }
    }

    /// The type other than null of a union with null, and which branch null is; the type itself if it is no union.
    pub fn optional(&self, id: NodeId) -> Result<(NodeId, Optional), String> {
        let Kind::Union(branches) = &self.node(id).kind else {
            return Ok((id, Optional::Plain));
        };
        let is_null = |branch: &NodeId| self.node(*branch).kind == Kind::Null;
        match branches.as_slice() {
            [only] => Ok((*only, Optional::Only)),
            [null, value] if is_null(null) => Ok((*value, Optional::NullIs(0))),
            [value, null] if is_null(null) => Ok((*value, Optional::NullIs(1))),
            _ => Err(format!(
                "{}: of unions only those of null and one other type have a column's type",
                self.describe(id)
            )),
        }
    }

    /// In words, for messages.
    pub fn describe(&self, id: NodeId) -> String {
        let node = self.node(id);
        let kind = match &node.kind {
            Kind::Null => "null".to_owned(),
            Kind::Boolean => "boolean".to_owned(),
            Kind::Int => "int".to_owned(),
            Kind::Long => "long".to_owned(),
            Kind::Float => "float".to_owned(),
            Kind::Double => "double".to_owned(),
            Kind::Bytes => "bytes".to_owned(),
            Kind::String => "string".to_owned(),
            Kind::Fixed { size, .. } => format!("fixed({size})"),
            Kind::Enum { name, .. } => format!("enum {name}"),
            Kind::Record { name, .. } => format!("record {name}"),
            Kind::Array(_) => "array".to_owned(),
            Kind::Map(_) => "map".to_owned(),
            Kind::Union(branches) => {
                let names: Vec<String> = branches.iter().map(|branch| self.describe(*branch)).collect();
                format!("union of {}", names.join(", "))
            }
        };
        match node.logical {
            Logical::None => kind,
            Logical::Decimal { precision, scale } => format!("{kind} (decimal({precision}, {scale}))"),
            Logical::Uuid => format!("{kind} (uuid)"),
            Logical::Date => format!("{kind} (date)"),
            Logical::Time(unit) => format!("{kind} (time-{})", unit.name()),
            Logical::Timestamp(unit) => format!("{kind} (timestamp-{})", unit.name()),
            Logical::LocalTimestamp(unit) => format!("{kind} (local-timestamp-{})", unit.name()),
            Logical::ZonedText => format!("{kind} (timestamp)"),
            Logical::Duration => format!("{kind} (duration)"),
            Logical::Json => format!("{kind} (json)"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    /// No union.
    Plain,
    /// A union of one type.
    Only,
    /// A union with null, which is this branch.
    NullIs(i64),
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Millis => "millis",
            Unit::Micros => "micros",
            Unit::Nanos => "nanos",
        }
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("an Avro schema is JSON: {error}"))
}

#[derive(Default)]
struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

impl Parser {
    fn add(&mut self, kind: Kind, logical: Logical) -> NodeId {
        self.nodes.push(Node { kind, logical });
        self.nodes.len() - 1
    }

    fn schema(&mut self, value: &Value, namespace: Option<&str>, depth: usize) -> Result<NodeId, String> {
        if depth > DEPTH_MAX {
            return Err(format!("the Avro schema is nested more than {DEPTH_MAX} deep"));
        }
        match value {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.schema(branch, namespace, depth + 1));
                let branches = branches.collect::<Result<Vec<_>, _>>()?;
                if branches.is_empty() {
                    return Err("an Avro union has no types".into());
                }
                Ok(self.add(Kind::Union(branches), Logical::None))
            }
            Value::Object(attributes) => self.complex(attributes, namespace, depth),
            other => Err(format!("{other} is no Avro schema")),
        }
    }

    fn named(&mut self, name: &str, namespace: Option<&str>) -> Result<NodeId, String> {
        if let Some(kind) = primitive(name) {
            return Ok(self.add(kind, Logical::None));
        }
        let full = full_name(name, namespace);
        let known = self.names.get(&full).or_else(|| self.names.get(name));
        known
            .copied()
            .ok_or_else(|| format!("Avro type \"{full}\" is not defined"))
    }

    fn complex(
        &mut self,
        attributes: &Map<String, Value>,
        namespace: Option<&str>,
        depth: usize,
    ) -> Result<NodeId, String> {
        let of_type = attributes.get("type").ok_or("an Avro schema has no \"type\"")?;
        let Value::String(word) = of_type else {
            // {"type": {..}} and {"type": [..]}.
            return self.schema(of_type, namespace, depth + 1);
        };
        let inner = |name: &str| {
            attributes
                .get(name)
                .ok_or_else(|| format!("an Avro {word} has no \"{name}\""))
        };
        match word.as_str() {
            "array" => {
                let items = self.schema(inner("items")?, namespace, depth + 1)?;
                Ok(self.add(Kind::Array(items), Logical::None))
            }
            "map" => {
                let values = self.schema(inner("values")?, namespace, depth + 1)?;
                Ok(self.add(Kind::Map(values), Logical::None))
            }
            "record" | "error" | "enum" | "fixed" => self.definition(word, attributes, namespace, depth),
            _ => {
                let node = self.named(word, namespace)?;
                if primitive(word).is_some() {
                    self.nodes[node].logical = logical(attributes, &self.nodes[node].kind);
                }
                Ok(node)
            }
        }
    }

    fn definition(
        &mut self,
        word: &str,
        attributes: &Map<String, Value>,
        namespace: Option<&str>,
        depth: usize,
    ) -> Result<NodeId, String> {
        let text = |name: &str| attributes.get(name).and_then(Value::as_str);
        let short = text("name").ok_or_else(|| format!("an Avro {word} has no \"name\""))?;
        let namespace = text("namespace").or(namespace);
        let name = full_name(short, namespace);
        let inside = name.rsplit_once('.').map(|(namespace, _)| namespace.to_owned());
        let node = self.add(Kind::Null, Logical::None);
        if self.names.insert(name.clone(), node).is_some() {
            return Err(format!("Avro type \"{name}\" is defined twice"));
        }
        let list = |of: &str| {
            let list = attributes.get(of).and_then(Value::as_array);
            list.ok_or_else(|| format!("Avro {word} \"{name}\" has no \"{of}\""))
        };
        let kind = match word {
            "enum" => {
                let symbols = list("symbols")?.iter().map(|symbol| symbol.as_str().map(str::to_owned));
                let symbols = symbols.collect::<Option<Vec<_>>>();
                let symbols = symbols.ok_or_else(|| format!("Avro enum \"{name}\" has symbols that are no strings"))?;
                Kind::Enum { name, symbols }
            }
            "fixed" => {
                let size = attributes
                    .get("size")
                    .and_then(Value::as_u64)
                    .and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| format!("Avro fixed \"{name}\" has no \"size\""))?;
                Kind::Fixed { name, size }
            }
            _ => {
                let mut fields = Vec::new();
                for field in list("fields")? {
                    fields.push(self.field(field, inside.as_deref(), depth)?);
                }
                Kind::Record { name, fields }
            }
        };
        self.nodes[node].logical = logical(attributes, &kind);
        self.nodes[node].kind = kind;
        Ok(node)
    }

    fn field(&mut self, field: &Value, namespace: Option<&str>, depth: usize) -> Result<RecordField, String> {
        let name = field
            .get("name")
            .and_then(Value::as_str)
            .ok_or("a field of an Avro record has no \"name\"")?;
        let of_type = field
            .get("type")
            .ok_or_else(|| format!("Avro field \"{name}\" has no \"type\""))?;
        Ok(RecordField {
            name: name.to_owned(),
            node: self.schema(of_type, namespace, depth + 1)?,
            default: field.get("default").cloned(),
        })
    }
}

fn primitive(name: &str) -> Option<Kind> {
    Some(match name {
        "null" => Kind::Null,
        "boolean" => Kind::Boolean,
        "int" => Kind::Int,
        "long" => Kind::Long,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "bytes" => Kind::Bytes,
        "string" => Kind::String,
        _ => return None,
    })
}

fn full_name(name: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() && !name.contains('.') => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    }
}

/// What the attributes say beyond the type, if it fits.
fn logical(attributes: &Map<String, Value>, kind: &Kind) -> Logical {
    let text = |name: &str| attributes.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| {
        attributes
            .get(name)
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
    };
    match (text("logicalType"), kind) {
        ("decimal", Kind::Bytes | Kind::Fixed { .. }) => match (number("precision"), number("scale").unwrap_or(0)) {
            (Some(precision), scale) if precision > 0 && scale <= precision => Logical::Decimal { precision, scale },
            _ => Logical::None,
        },
        ("uuid", Kind::String | Kind::Fixed { size: 16, .. }) => Logical::Uuid,
        ("date", Kind::Int) => Logical::Date,
        ("time-millis", Kind::Int) => Logical::Time(Unit::Millis),
        ("time-micros", Kind::Long) => Logical::Time(Unit::Micros),
        ("timestamp-millis", Kind::Long) => Logical::Timestamp(Unit::Millis),
        ("timestamp-micros", Kind::Long) => Logical::Timestamp(Unit::Micros),
        ("timestamp-nanos", Kind::Long) => Logical::Timestamp(Unit::Nanos),
        ("local-timestamp-millis", Kind::Long) => Logical::LocalTimestamp(Unit::Millis),
        ("local-timestamp-micros", Kind::Long) => Logical::LocalTimestamp(Unit::Micros),
        ("local-timestamp-nanos", Kind::Long) => Logical::LocalTimestamp(Unit::Nanos),
        ("duration", Kind::Fixed { size: 12, .. }) => Logical::Duration,
        _ => connect_logical(text("connect.name"), kind),
    }
}

/// Names of Kafka Connect and Debezium.
fn connect_logical(name: &str, kind: &Kind) -> Logical {
    match (name, kind) {
        ("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date", Kind::Int) => Logical::Date,
        ("io.debezium.time.Time" | "org.apache.kafka.connect.data.Time", Kind::Int) => Logical::Time(Unit::Millis),
        ("io.debezium.time.MicroTime", Kind::Long) => Logical::Time(Unit::Micros),
        ("io.debezium.time.NanoTime", Kind::Long) => Logical::Time(Unit::Nanos),
        // Debezium's are those of columns without a time zone.
        ("io.debezium.time.Timestamp", Kind::Long) => Logical::LocalTimestamp(Unit::Millis),
        ("io.debezium.time.MicroTimestamp", Kind::Long) => Logical::LocalTimestamp(Unit::Micros),
        ("io.debezium.time.NanoTimestamp", Kind::Long) => Logical::LocalTimestamp(Unit::Nanos),
        ("org.apache.kafka.connect.data.Timestamp", Kind::Long) => Logical::Timestamp(Unit::Millis),
        ("io.debezium.time.ZonedTimestamp", Kind::String) => Logical::ZonedText,
        ("io.debezium.data.Uuid", Kind::String) => Logical::Uuid,
        ("io.debezium.data.Json", Kind::String) => Logical::Json,
        _ => Logical::None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn described(text: &str) -> Result<Vec<String>, String> {
        let schema = AvroSchema::parse(text, &[])?;
        let (name, fields) = schema.record()?;
        let shown = |field: &RecordField| format!("{} {}", field.name, schema.describe(field.node));
        Ok(std::iter::once(name.to_owned())
            .chain(fields.iter().map(shown))
            .collect())
    }

    #[test]
    fn names_and_logical_types_are_found() {
        let text = r#"{"type":"record","name":"R","namespace":"a.b","fields":[
            {"name":"i","type":{"type":"int","logicalType":"date"}},
            {"name":"wrong","type":{"type":"string","logicalType":"date"}},
            {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
            {"name":"bad_decimal","type":{"type":"bytes","logicalType":"decimal","precision":2,"scale":9}},
            {"name":"e","type":{"type":"enum","name":"E","symbols":["X"]}},
            {"name":"e2","type":["null","a.b.E"],"default":null},
            {"name":"e3","type":"E"},
            {"name":"f","type":{"type":"fixed","name":"other.F","size":12,"logicalType":"duration"}},
            {"name":"self","type":["null","R"]},
            {"name":"t","type":{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}},
            {"name":"n","type":{"type":{"type":"long","logicalType":"timestamp-nanos"}}}]}"#;
        assert_eq!(
            described(text).unwrap(),
            [
                "a.b.R",
                "i int (date)",
                "wrong string",
                "d bytes (decimal(9, 2))",
                "bad_decimal bytes",
                "e enum a.b.E",
                "e2 union of null, enum a.b.E",
                "e3 enum a.b.E",
                "f fixed(12) (duration)",
                "self union of null, record a.b.R",
                "t long (local-timestamp-micros)",
                "n long (timestamp-nanos)",
            ]
        );
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for (text, reason) in [
            ("{", "an Avro schema is JSON"),
            ("7", "7 is no Avro schema"),
            ("\"int\"", "the Avro schema is int, not a record"),
            ("\"nothing\"", "Avro type \"nothing\" is not defined"),
            ("[]", "an Avro union has no types"),
            (r#"{"type":"record","name":"R"}"#, "Avro record \"R\" has no \"fields\""),
            (r#"{"type":"array"}"#, "an Avro array has no \"items\""),
        ] {
            let error = described(text).unwrap_err();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
        let deep = format!("{}\"int\"{}", "[".repeat(100), "]".repeat(100));
        assert!(AvroSchema::parse(&deep, &[]).unwrap_err().contains("more than 64 deep"));
    }

    #[test]
    fn references_are_known_by_name() {
        let references = [(
            "n.E".to_owned(),
            r#"{"type":"enum","name":"n.E","symbols":["A"]}"#.to_owned(),
        )];
        let text = r#"{"type":"record","name":"n.R","fields":[{"name":"e","type":"E"}]}"#;
        let schema = AvroSchema::parse(text, &references).unwrap();
        assert_eq!(schema.describe(schema.record().unwrap().1[0].node), "enum n.E");
        assert!(AvroSchema::parse(text, &[]).is_err());
    }
}
