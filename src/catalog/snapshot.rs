//! An immutable picture of the catalog at one version: names, OIDs, dependencies.
//!
//! Statements are planned against one snapshot from begin to end. Lookups are by hash; a snapshot shares the objects with
//! the one it was made from.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::catalog::error::{Error, Result};
use crate::catalog::objects::{Connection, Object, ObjectKind, Pipeline, Secret, SecretSource, Table, View};
use crate::catalog::secrets::SecretBox;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions, ResolvedOptions, ResolvedValue, normalize_name};

/// A name as a statement gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QualifiedName {
    pub schema: Option<String>,
    pub name: String,
}

impl QualifiedName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> QualifiedName {
        QualifiedName {
            schema: Some(schema.into()),
            name: name.into(),
        }
    }

    pub fn unqualified(name: impl Into<String>) -> QualifiedName {
        QualifiedName {
            schema: None,
            name: name.into(),
        }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Which names exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Namespace {
    Schema,
    Secret,
    Connection,
    Relation,
}

impl Namespace {
    pub(crate) fn of(kind: ObjectKind) -> Namespace {
        match kind {
            ObjectKind::Schema => Namespace::Schema,
            ObjectKind::Secret => Namespace::Secret,
            ObjectKind::Connection => Namespace::Connection,
            ObjectKind::Table | ObjectKind::View | ObjectKind::Pipeline => Namespace::Relation,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Namespace::Schema => "schema",
            Namespace::Secret => "secret",
            Namespace::Connection => "connection",
            Namespace::Relation => "relation",
        }
    }
}

/// Namespace, schema ("" for schemas themselves), name.
type NameKey = (Namespace, String, String);

/// The OID of schema `public`; the same as Postgres's.
pub const PUBLIC_SCHEMA_OID: Oid = Oid(2200);
/// The schema where names are made when the session says nothing else.
pub const PUBLIC_SCHEMA: &str = "public";
/// Schemas of the system views; nothing can be created there.
pub const SYSTEM_SCHEMAS: [&str; 3] = ["pg_catalog", "information_schema", "laminar"];

#[derive(Clone, Debug)]
pub struct CatalogSnapshot {
    version: u64,
    next_oid: u32,
    objects: BTreeMap<Oid, Arc<Object>>,
    names: HashMap<NameKey, Oid>,
    public_ids: HashMap<String, Oid>,
    dependencies: HashMap<Oid, Vec<Oid>>,
    dependents: HashMap<Oid, Vec<Oid>>,
    secrets: SecretBox,
}

impl CatalogSnapshot {
    /// From all objects, each with the OIDs it depends on.
    pub fn new(
        version: u64,
        next_oid: u32,
        objects: impl IntoIterator<Item = (Object, Vec<Oid>)>,
        secrets: SecretBox,
    ) -> CatalogSnapshot {
        let mut snapshot = CatalogSnapshot {
            version,
            next_oid,
            objects: BTreeMap::new(),
            names: HashMap::new(),
            public_ids: HashMap::new(),
            dependencies: HashMap::new(),
            dependents: HashMap::new(),
            secrets,
        };
        for (object, depends_on) in objects {
            snapshot.insert(object, depends_on);
        }
        snapshot
    }

    /// Grows by one with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The relation that `name` means: in its schema, else in the first schema of `search_path` that has one.
    pub fn resolve_relation(&self, name: &QualifiedName, search_path: &[String]) -> Option<&Object> {
        self.lookup(Namespace::Relation, name, search_path)
    }

    /// The object of this kind that `name` means. A relation of another kind hides those behind it in the search path.
    pub fn find(&self, kind: ObjectKind, name: &QualifiedName, search_path: &[String]) -> Option<&Object> {
        self.lookup(Namespace::of(kind), name, search_path)
            .filter(|object| object.kind() == kind)
    }

    /// As [`CatalogSnapshot::find`], with the error that Postgres gives: missing with the nearest name, or of another kind.
    pub fn require(&self, kind: ObjectKind, name: &QualifiedName, search_path: &[String]) -> Result<&Object> {
        match self.lookup(Namespace::of(kind), name, search_path) {
            Some(object) if object.kind() == kind => Ok(object),
            Some(object) => Err(Error::WrongKind {
                name: name.name.clone(),
                expected: kind,
                actual: object.kind(),
            }),
            None => Err(self.undefined(kind, name)),
        }
    }

    /// `name` with the schema in which the search path finds it; unchanged when it finds nothing.
    pub fn qualify(&self, kind: ObjectKind, name: &QualifiedName, search_path: &[String]) -> QualifiedName {
        match self.lookup(Namespace::of(kind), name, search_path) {
            Some(object) => QualifiedName {
                schema: object.header().schema.clone(),
                name: name.name.clone(),
            },
            None => name.clone(),
        }
    }

    pub fn get(&self, oid: Oid) -> Option<&Object> {
        self.objects.get(&oid).map(AsRef::as_ref)
    }

    /// By `pipe_..`, `tbl_..`.
    pub fn by_public_id(&self, public_id: &str) -> Option<&Object> {
        self.public_ids.get(public_id).and_then(|oid| self.get(*oid))
    }

    /// In the order of OIDs, which is that of creation.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().map(AsRef::as_ref)
    }

    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.objects().filter_map(|object| match object {
            Object::Table(table) => Some(table),
            _ => None,
        })
    }

    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.objects().filter_map(|object| match object {
            Object::View(view) => Some(view),
            _ => None,
        })
    }

    pub fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.objects().filter_map(|object| match object {
            Object::Pipeline(pipeline) => Some(pipeline),
            _ => None,
        })
    }

    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.objects().filter_map(|object| match object {
            Object::Connection(connection) => Some(connection),
            _ => None,
        })
    }

    /// What directly depends on `oid`, in the order of creation.
    pub fn dependents(&self, oid: Oid) -> Vec<&Object> {
        let mut oids = self.dependents.get(&oid).cloned().unwrap_or_default();
        oids.sort_unstable();
        oids.into_iter().filter_map(|oid| self.get(oid)).collect()
    }

    /// What `oid` directly depends on.
    pub fn dependencies(&self, oid: Oid) -> Vec<Oid> {
        self.dependencies.get(&oid).cloned().unwrap_or_default()
    }

    /// The objects inside a schema.
    pub fn objects_in_schema(&self, schema: &str) -> impl Iterator<Item = &Object> {
        self.objects()
            .filter(move |object| object.header().schema.as_deref() == Some(schema))
    }

    pub fn schema_oid(&self, schema: &str) -> Option<Oid> {
        self.names
            .get(&(Namespace::Schema, String::new(), schema.to_owned()))
            .copied()
    }

    /// The options a connector gets: the connection's first, then the table's, which win. Secrets are opened, `{{ VAR }}`
    /// is replaced by what `environment` tells; names are normalized.
    pub fn resolve_options(
        &self,
        table_options: &RawOptions,
        connection: Option<u32>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ResolvedOptions> {
        let mut resolved = ResolvedOptions::default();
        if let Some(oid) = connection {
            match self.get(Oid(oid)) {
                Some(Object::Connection(connection)) => {
                    let schema = connection.header.schema.as_deref();
                    self.resolve_into(&mut resolved, &connection.options, schema, environment)?;
                }
                _ => return Err(Error::UndefinedOid { oid }),
            }
        }
        self.resolve_into(&mut resolved, table_options, None, environment)?;
        Ok(resolved)
    }

    fn resolve_into(
        &self,
        resolved: &mut ResolvedOptions,
        options: &RawOptions,
        schema: Option<&str>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<()> {
        for (name, value) in &options.0 {
            let value = match value {
                RawOptionValue::Text(text) => ResolvedValue {
                    text: fill_variables(name, text, environment)?,
                    sensitive: false,
                },
                RawOptionValue::Secret(secret) => ResolvedValue {
                    text: self.open_secret(self.secret_named(secret, schema)?, environment)?,
                    sensitive: true,
                },
            };
            resolved.0.push((normalize_name(name), value));
        }
        Ok(())
    }

    /// The secret that an option names: `schema.name`, or a bare name looked for in `schema`, in `public`, and then
    /// anywhere when only one has it.
    pub(crate) fn secret_named(&self, text: &str, schema: Option<&str>) -> Result<&Secret> {
        let as_secret = |object: &'_ Object| matches!(object, Object::Secret(_));
        let qualified = match text.split_once('.') {
            Some((schema, name)) => self.lookup(Namespace::Secret, &QualifiedName::new(schema, name), &[]),
            None => None,
        };
        let by_path = || {
            let path: Vec<String> = schema.into_iter().chain([PUBLIC_SCHEMA]).map(str::to_owned).collect();
            self.lookup(Namespace::Secret, &QualifiedName::unqualified(text), &path)
        };
        let anywhere = || {
            let mut found = self
                .objects()
                .filter(|object| as_secret(object) && object.header().name == text);
            found.next().filter(|_| found.next().is_none())
        };
        match qualified.or_else(by_path).or_else(anywhere) {
            Some(Object::Secret(secret)) => Ok(secret),
            _ => Err(self.undefined(ObjectKind::Secret, &QualifiedName::unqualified(text))),
        }
    }

    fn open_secret(&self, secret: &Secret, environment: &dyn Fn(&str) -> Option<String>) -> Result<String> {
        let name = &secret.header.name;
        match &secret.source {
            SecretSource::Sealed(sealed) => self
                .secrets
                .open(&secret.header.public_id, sealed)
                .ok_or_else(|| Error::SecretNotOpened { name: name.clone() }),
            SecretSource::Environment(variable) => environment(variable).ok_or_else(|| Error::VariableNotSet {
                variable: variable.clone(),
                context: format!("secret \"{name}\""),
            }),
            // Trailing line ends are the editor's, not the secret's.
            SecretSource::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
                .map_err(|error| Error::SecretFile {
                    name: name.clone(),
                    path: path.clone(),
                    reason: error.to_string(),
                }),
        }
    }

    pub(crate) fn secrets(&self) -> &SecretBox {
        &self.secrets
    }

    pub(crate) fn next_oid(&self) -> u32 {
        self.next_oid
    }

    pub(crate) fn undefined(&self, kind: ObjectKind, name: &QualifiedName) -> Error {
        let candidates = self
            .objects()
            .filter(|object| Namespace::of(object.kind()) == Namespace::of(kind))
            .filter(|object| name.schema.is_none() || object.header().schema == name.schema)
            .map(|object| object.header().name.as_str());
        Error::Undefined {
            kind,
            name: name.to_string(),
            nearest: crate::error::nearest(&name.name, candidates).map(str::to_owned),
        }
    }

    pub(crate) fn lookup(&self, namespace: Namespace, name: &QualifiedName, search_path: &[String]) -> Option<&Object> {
        let in_schema = |schema: &str| {
            let key = (namespace, schema.to_owned(), name.name.clone());
            self.names.get(&key).and_then(|oid| self.get(*oid))
        };
        match (&name.schema, namespace) {
            (_, Namespace::Schema) => in_schema(""),
            (Some(schema), _) => in_schema(schema),
            (None, _) => search_path.iter().find_map(|schema| in_schema(schema)),
        }
    }

    /// Adds or replaces an object; the changes of one statement build the next snapshot with this.
    pub(crate) fn insert(&mut self, object: Object, depends_on: Vec<Oid>) {
        let oid = object.oid();
        self.remove(oid);
        self.names.insert(name_key(&object), oid);
        self.public_ids.insert(object.header().public_id.clone(), oid);
        for dependency in &depends_on {
            self.dependents.entry(*dependency).or_default().push(oid);
        }
        self.dependencies.insert(oid, depends_on);
        self.objects.insert(oid, Arc::new(object));
    }

    pub(crate) fn remove(&mut self, oid: Oid) -> Option<Arc<Object>> {
        let object = self.objects.remove(&oid)?;
        self.names.remove(&name_key(&object));
        self.public_ids.remove(&object.header().public_id);
        for dependency in self.dependencies.remove(&oid).unwrap_or_default() {
            if let Some(dependents) = self.dependents.get_mut(&dependency) {
                dependents.retain(|dependent| *dependent != oid);
            }
        }
        Some(object)
    }

    pub(crate) fn advance(&mut self, version: u64, next_oid: u32) {
        self.version = version;
        self.next_oid = next_oid;
    }
}

fn name_key(object: &Object) -> NameKey {
    let header = object.header();
    (
        Namespace::of(object.kind()),
        header.schema.clone().unwrap_or_default(),
        header.name.clone(),
    )
}

/// Replaces every `{{ NAME }}` of an option's text.
fn fill_variables(option: &str, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (variable, behind) = after.split_once("}}").ok_or_else(|| Error::UnclosedVariable {
            option: option.to_owned(),
        })?;
        let variable = variable.trim();
        filled.push_str(before);
        filled.push_str(&environment(variable).ok_or_else(|| Error::VariableNotSet {
            variable: variable.to_owned(),
            context: format!("option \"{option}\""),
        })?);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::catalog::objects::ObjectHeader;
    use crate::error::Report;

    fn header(oid: u32, schema: Option<&str>, name: &str) -> ObjectHeader {
        ObjectHeader {
            oid: Oid(oid),
            public_id: format!("id_{oid}"),
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            owner: "laminar".into(),
            created_at_micros: 0,
            updated_at_micros: 0,
            comment: None,
        }
    }

    fn view(oid: u32, schema: &str, name: &str) -> Object {
        Object::View(View {
            header: header(oid, Some(schema), name),
            query: "SELECT 1".into(),
            column_names: vec![],
            columns: vec![],
            search_path: vec![],
        })
    }

    fn secret(secrets: &SecretBox, oid: u32, schema: &str, name: &str, value: &str) -> Object {
        let header = header(oid, Some(schema), name);
        let source = SecretSource::Sealed(secrets.seal(&header.public_id, value).unwrap());
        Object::Secret(Secret { header, source })
    }

    fn connection(oid: u32, options: &[(&str, RawOptionValue)]) -> Object {
        Object::Connection(Connection {
            header: header(oid, Some("public"), "c"),
            connector: "kafka".into(),
            options: RawOptions(options.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect()),
            description: None,
        })
    }

    fn path(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn search_path_decides_and_other_kinds_hide() {
        let objects = [view(1, "a", "v"), view(2, "b", "v"), view(3, "b", "w")];
        let secrets = SecretBox::ephemeral().unwrap();
        let snapshot = CatalogSnapshot::new(7, 20000, objects.map(|o| (o, vec![])), secrets);
        let v = QualifiedName::unqualified("v");
        assert_eq!(snapshot.resolve_relation(&v, &path(&["b", "a"])).unwrap().oid(), Oid(2));
        assert_eq!(snapshot.resolve_relation(&v, &path(&["x", "a"])).unwrap().oid(), Oid(1));
        assert!(snapshot.resolve_relation(&v, &path(&["x"])).is_none());
        let qualified = QualifiedName::new("b", "v");
        assert_eq!(snapshot.resolve_relation(&qualified, &[]).unwrap().oid(), Oid(2));
        assert!(snapshot.find(ObjectKind::Table, &v, &path(&["a"])).is_none());
        let error = snapshot.require(ObjectKind::Table, &v, &path(&["a"])).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.to_string().as_str()),
            ("42809", "\"v\" is not a table")
        );
        let error = snapshot
            .require(ObjectKind::View, &QualifiedName::new("b", "ww"), &[])
            .unwrap_err();
        assert_eq!(error.code().as_str(), "42P01");
        assert!(error.hint().unwrap().contains("\"w\""));
    }

    #[test]
    fn options_are_layered_and_secrets_stay_hidden() {
        let secrets = SecretBox::ephemeral().unwrap();
        let options = [
            ("bootstrapServers", RawOptionValue::Text("{{ HOST }}:{{PORT}}".into())),
            ("topic", RawOptionValue::Text("from_connection".into())),
            ("password", RawOptionValue::Secret("s".into())),
        ];
        let objects = [secret(&secrets, 1, "public", "s", "hunter2"), connection(2, &options)];
        let snapshot = CatalogSnapshot::new(1, 20000, objects.map(|o| (o, vec![])), secrets);
        let table = RawOptions(vec![("topic".into(), RawOptionValue::Text("t".into()))]);
        let environment = |name: &str| match name {
            "HOST" => Some("h".to_owned()),
            "PORT" => Some("9092".to_owned()),
            _ => None,
        };
        let resolved = snapshot.resolve_options(&table, Some(2), &environment).unwrap();
        assert_eq!(resolved.get("bootstrap_servers").unwrap().text, "h:9092");
        assert_eq!(resolved.get("topic").unwrap().text, "t");
        assert_eq!(resolved.get("password").unwrap().text, "hunter2");
        assert!(!format!("{resolved:?}{snapshot:?}").contains("hunter2"));
        let error = snapshot.resolve_options(&table, Some(2), &|_| None).unwrap_err();
        assert!(error.to_string().contains("\"HOST\""));
        let unclosed = RawOptions(vec![("a".into(), RawOptionValue::Text("{{ HOST".into()))]);
        let error = snapshot.resolve_options(&unclosed, None, &environment).unwrap_err();
        assert_eq!(error.code().as_str(), "22023");
        assert!(snapshot.resolve_options(&table, Some(99), &environment).is_err());
    }

    #[test]
    fn secret_from_another_row_is_refused() {
        let secrets = SecretBox::ephemeral().unwrap();
        let Object::Secret(mut stolen) = secret(&secrets, 1, "public", "s", "hunter2") else {
            unreachable!()
        };
        stolen.header.public_id = "id_other".into();
        let snapshot = CatalogSnapshot::new(1, 20000, [(Object::Secret(stolen), vec![])], secrets);
        let options = RawOptions(vec![("p".into(), RawOptionValue::Secret("s".into()))]);
        let error = snapshot.resolve_options(&options, None, &|_| None).unwrap_err();
        assert!(matches!(error, Error::SecretNotOpened { .. }));
    }
}
