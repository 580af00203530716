//! The statements of Laminar, as parsed: nothing is looked up or checked against the catalog yet.
//!
//! What is the same as in other SQL databases stays the tree of the parser underneath ([`Statement::Sql`]); queries keep
//! their exact text beside the tree, because the catalog stores text.

use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::{Column, ConstraintKind, ObjectKind, WatermarkDefinition};
use crate::catalog::snapshot::QualifiedName;
use crate::engine::graph::EmitMode;
use crate::options::RawOptions;

/// One statement of a text.
#[derive(Clone, Debug)]
pub struct ParsedStatement {
    pub statement: Statement,
    /// Exactly as sent, without the semicolon.
    pub text: String,
    /// Characters of the sent text before it.
    pub offset: usize,
    /// The whole text as sent, which the places in the tree refer to.
    pub source: std::sync::Arc<str>,
}

#[derive(Clone, Debug)]
pub enum Statement {
    CreateConnection(CreateConnection),
    ValidateConnection {
        name: QualifiedName,
    },
    CreateSecret(CreateSecret),
    CreateTable(Box<CreateTable>),
    CreatePipeline(Box<CreatePipeline>),
    CreateView(Box<CreateView>),
    CreateSchema {
        if_not_exists: bool,
        name: String,
    },
    Alter(Alter),
    StartPipeline {
        name: QualifiedName,
    },
    StopPipeline {
        name: QualifiedName,
        mode: StopWord,
    },
    RestartPipeline {
        name: QualifiedName,
        from_checkpoint: Option<u64>,
    },
    Checkpoint {
        pipeline: QualifiedName,
        label: Option<String>,
    },
    Drop(Drop),
    Comment(Comment),
    Show(Show),
    Describe {
        name: QualifiedName,
    },
    Explain(Explain),
    /// What CREATE OR REPLACE would do.
    ExplainReplace(Box<CreatePipeline>),
    ExplainAnalyzePipeline {
        name: QualifiedName,
    },
    Query(Box<QueryText>),
    Insert(Box<InsertText>),
    Subscribe(Box<Subscribe>),
    Copy(Box<Copy>),
    Flush,
    WaitForPipeline(WaitForPipeline),
    Set(Set),
    ShowSetting {
        name: String,
    },
    ShowAllSettings,
    Reset {
        name: Option<String>,
    },
    Discard {
        what: DiscardKind,
    },
    Transaction(Transaction),
    Prepare(Box<Prepare>),
    Execute {
        name: String,
        arguments: Vec<ast::Expr>,
    },
    Deallocate {
        name: Option<String>,
    },
    Declare(Box<Declare>),
    Fetch(Fetch),
    /// `CLOSE name`, `CLOSE ALL`.
    Close {
        name: Option<String>,
    },
    /// Accepted because clients send it; changes nothing here.
    Accepted {
        tag: &'static str,
        notice: Option<&'static str>,
    },
    /// Known from Postgres or other streaming databases, with what to use instead.
    Unsupported {
        what: String,
        hint: &'static str,
    },
    Sql(Box<ast::Statement>),
}

#[derive(Clone, Debug)]
pub struct CreateConnection {
    pub if_not_exists: bool,
    pub name: QualifiedName,
    /// Includes `connector`, whichever spelling gave it.
    pub options: RawOptions,
}

#[derive(Clone, PartialEq, Eq)]
pub enum SecretText {
    Value(String),
    Environment(String),
    File(String),
}

#[derive(Clone, Debug)]
pub struct CreateSecret {
    pub if_not_exists: bool,
    pub name: QualifiedName,
    pub source: SecretText,
}

#[derive(Clone, Debug)]
pub struct CreateTable {
    pub if_not_exists: bool,
    pub name: QualifiedName,
    /// `None`: the statement has no column list.
    pub columns: Option<Vec<Column>>,
    pub primary_key: Vec<String>,
    /// In the order of the text; the PRIMARY KEY is among them.
    pub constraints: Vec<ConstraintText>,
    pub watermark: Option<WatermarkDefinition>,
    /// `None`: no WITH clause.
    pub options: Option<RawOptions>,
    /// `AS SELECT ..`.
    pub query: Option<QueryText>,
}

/// A constraint of a table, with or without a name.
#[derive(Clone, Debug)]
pub struct ConstraintText {
    pub name: Option<String>,
    pub kind: ConstraintKind,
    /// The column in whose definition it stands.
    pub column: Option<String>,
}

#[derive(Clone, Debug)]
pub struct CreatePipeline {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: QualifiedName,
    pub options: RawOptions,
    pub materialized_view: bool,
    pub body: BodyText,
}

/// What a pipeline runs: a query, INSERTs, or a whole file.
#[derive(Clone, Debug)]
pub struct BodyText {
    pub text: String,
    /// The text that places in the trees refer to.
    pub source: std::sync::Arc<str>,
    pub statements: Vec<BodyStatement>,
}

#[derive(Clone, Debug)]
pub enum BodyStatement {
    Query(QueryText),
    Insert(InsertText),
    CreateTable(CreateTable),
    CreateView(CreateView),
    Set(Set),
}

/// A query with its text; `EMIT ON ..` is part of the text but not of the tree.
#[derive(Clone, Debug)]
pub struct QueryText {
    pub text: String,
    pub query: Box<ast::Query>,
    pub emit: Option<EmitMode>,
}

#[derive(Clone, Debug)]
pub struct InsertText {
    pub text: String,
    pub insert: Box<ast::Insert>,
    pub emit: Option<EmitMode>,
}

#[derive(Clone, Debug)]
pub struct CreateView {
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub name: QualifiedName,
    pub column_names: Vec<String>,
    pub query: QueryText,
}

#[derive(Clone, Debug)]
pub struct Alter {
    pub kind: ObjectKind,
    pub if_exists: bool,
    pub name: QualifiedName,
    pub action: AlterAction,
}

#[derive(Clone, Debug)]
pub enum AlterAction {
    SetOptions(RawOptions),
    ResetOptions(Vec<String>),
    RenameTo(String),
    SetSchema(String),
    OwnerTo(String),
    SetSecret(SecretText),
    AddColumn {
        column: Column,
        if_not_exists: bool,
    },
    DropColumn {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    RenameColumn {
        name: String,
        new_name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWord {
    /// `STOP PIPELINE`: with a checkpoint, as `WITH CHECKPOINT` says explicitly.
    Default,
    WithCheckpoint,
    Now,
}

#[derive(Clone, Debug)]
pub struct Drop {
    pub kind: ObjectKind,
    pub names: Vec<QualifiedName>,
    pub if_exists: bool,
    pub cascade: bool,
    /// As in `DROP MATERIALIZED VIEW`, for the command tag.
    pub tag: &'static str,
}

#[derive(Clone, Debug)]
pub struct Comment {
    pub target: CommentTarget,
    pub text: Option<String>,
}

#[derive(Clone, Debug)]
pub enum CommentTarget {
    Object { kind: ObjectKind, name: QualifiedName },
    Column { relation: QualifiedName, column: String },
}

#[derive(Clone, Debug)]
pub enum Show {
    /// A view of schema `laminar`.
    Objects {
        view: &'static str,
        schema: Option<String>,
        like: Option<String>,
        filter: Option<String>,
    },
    Create {
        kind: ObjectKind,
        name: QualifiedName,
    },
    Columns {
        relation: QualifiedName,
    },
}

#[derive(Clone, Debug)]
pub struct Explain {
    pub stage: ExplainStage,
    pub format: ExplainFormat,
    /// Actually run it; only one-shot queries.
    pub analyze: bool,
    pub target: ExplainTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainStage {
    /// Nothing said: all stages.
    All,
    Logical,
    Rewritten,
    Physical,
    Graph,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainFormat {
    Text,
    Json,
    Dot,
}

#[derive(Clone, Debug)]
pub enum ExplainTarget {
    Body(BodyText),
    /// Of a CREATE PIPELINE, with its options.
    NewPipeline(BodyText, RawOptions),
    Pipeline(QualifiedName),
}

#[derive(Clone, Debug)]
pub struct Subscribe {
    pub target: SubscribeTarget,
    pub snapshot: bool,
    pub progress: bool,
    pub as_of_epoch: Option<u64>,
    pub envelope: Envelope,
}

#[derive(Clone, Debug)]
pub enum SubscribeTarget {
    Relation(QualifiedName),
    Query(QueryText),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    None,
    Upsert(Vec<String>),
    Debezium(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Copy {
    pub source: CopySource,
    pub direction: CopyDirection,
    pub format: CopyFormat,
}

#[derive(Clone, Debug)]
pub enum CopySource {
    Relation { name: QualifiedName, columns: Vec<String> },
    Query(QueryText),
    Subscribe(Subscribe),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    ToClient,
    FromClient,
}

/// How COPY writes rows; defaults as Postgres's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFormat {
    pub kind: CopyKind,
    pub header: bool,
    pub delimiter: char,
    pub null: String,
    pub quote: char,
    pub escape: char,
    pub force_quote: ForceQuote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    Text,
    Csv,
    Binary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForceQuote {
    None,
    All,
    Columns(Vec<String>),
}

impl CopyFormat {
    pub fn new(kind: CopyKind) -> CopyFormat {
        CopyFormat {
            kind,
            header: false,
            delimiter: if kind == CopyKind::Csv { ',' } else { '\t' },
            null: if kind == CopyKind::Csv {
                String::new()
            } else {
                "\\N".to_owned()
            },
            quote: '"',
            escape: '"',
            force_quote: ForceQuote::None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct WaitForPipeline {
    pub name: QualifiedName,
    pub until: WaitUntil,
    pub timeout: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitUntil {
    Running,
    CaughtUp,
    Finished,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub scope: SetScope,
    /// Lower case.
    pub name: String,
    /// `None`: DEFAULT.
    pub value: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetScope {
    Session,
    /// Until the end of the transaction.
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardKind {
    All,
    Plans,
    Sequences,
    Temporary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    Begin { tag: &'static str, read_only: Option<bool> },
    Commit { chain: bool },
    Rollback { chain: bool },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
}

#[derive(Clone, Debug)]
pub struct Prepare {
    pub name: String,
    /// Types as written.
    pub types: Vec<String>,
    pub statement: ParsedStatement,
}

#[derive(Clone, Debug)]
pub struct Declare {
    pub name: String,
    pub binary: bool,
    pub hold: bool,
    pub source: DeclareSource,
}

#[derive(Clone, Debug)]
pub enum DeclareSource {
    Query(QueryText),
    Subscribe(Subscribe),
}

#[derive(Clone, Debug)]
pub struct Fetch {
    pub cursor: String,
    /// `None`: ALL.
    pub rows: Option<u64>,
    /// As written, such as `1 s`: a subscription's FETCH waits at most so long.
    pub timeout: Option<String>,
    /// `MOVE`: rows are skipped instead of sent.
    pub discard: bool,
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
