//! Statements on objects that exist: ALTER, DROP, COMMENT, and the life of pipelines.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::catalog::objects::ObjectKind;
use crate::frontend::error::Result;
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::{Alter, AlterAction, Comment, CommentTarget, Drop, Statement, StopWord};
use crate::frontend::sql::{create, create_table, options};

/// Words for a kind of object in ALTER, DROP, COMMENT and SHOW CREATE, and the tag of DROP.
const KINDS: &[(&[&str], ObjectKind, &str)] = &[
    (
        &["MATERIALIZED", "VIEW"],
        ObjectKind::Pipeline,
        "DROP MATERIALIZED VIEW",
    ),
    (&["PIPELINE"], ObjectKind::Pipeline, "DROP PIPELINE"),
    (&["TABLE"], ObjectKind::Table, "DROP TABLE"),
    (&["VIEW"], ObjectKind::View, "DROP VIEW"),
    (&["CONNECTION"], ObjectKind::Connection, "DROP CONNECTION"),
    (&["SECRET"], ObjectKind::Secret, "DROP SECRET"),
    (&["SCHEMA"], ObjectKind::Schema, "DROP SCHEMA"),
];

pub fn kind(cursor: &mut Cursor<'_>) -> Result<(ObjectKind, &'static str)> {
    for (words, kind, tag) in KINDS {
        if cursor.take(words) {
            return Ok((*kind, tag));
        }
    }
    Err(cursor.unexpected("PIPELINE, TABLE, VIEW, CONNECTION, SECRET or SCHEMA"))
}

pub fn drop(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["DROP"])?;
    let (kind, tag) = kind(cursor)?;
    let if_exists = cursor.if_exists();
    let mut names = vec![cursor.qualified_name()?];
    while cursor.take_token(&Token::Comma) {
        names.push(cursor.qualified_name()?);
    }
    let cascade = cursor.take(&["CASCADE"]);
    let _ = !cascade && cursor.take(&["RESTRICT"]);
    Ok(Statement::Drop(Drop {
        kind,
        names,
        if_exists,
        cascade,
        tag,
    }))
}

pub fn comment(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["COMMENT", "ON"])?;
    let target = if cursor.take(&["COLUMN"]) {
        let mut parts = vec![cursor.name()?];
        while cursor.take_token(&Token::Period) {
            parts.push(cursor.any_word("a name")?);
        }
        let column = parts.pop().unwrap_or_default();
        let Some(name) = parts.pop() else {
            return Err(cursor.unexpected("\".\""));
        };
        let relation = crate::catalog::snapshot::QualifiedName {
            schema: parts.pop(),
            name,
        };
        CommentTarget::Column { relation, column }
    } else {
        let (kind, _) = kind(cursor)?;
        CommentTarget::Object {
            kind,
            name: cursor.qualified_name()?,
        }
    };
    cursor.expect(&["IS"])?;
    let text = match cursor.take(&["NULL"]) {
        true => None,
        false => Some(cursor.string()?),
    };
    Ok(Statement::Comment(Comment { target, text }))
}

pub fn alter(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["ALTER"])?;
    let (kind, _) = kind(cursor)?;
    let if_exists = cursor.if_exists();
    let name = cursor.qualified_name()?;
    let action = alter_action(cursor, kind)?;
    Ok(Statement::Alter(Alter {
        kind,
        if_exists,
        name,
        action,
    }))
}

fn alter_action(cursor: &mut Cursor<'_>, kind: ObjectKind) -> Result<AlterAction> {
    if kind == ObjectKind::Secret && (cursor.sees(&["AS"]) || cursor.sees(&["FROM"])) {
        return create::secret_source(cursor).map(AlterAction::SetSecret);
    }
    if cursor.take(&["RENAME", "TO"]) {
        return cursor.name().map(AlterAction::RenameTo);
    }
    if cursor.take(&["OWNER", "TO"]) {
        return cursor.any_word("a role").map(AlterAction::OwnerTo);
    }
    if cursor.take(&["SET", "SCHEMA"]) {
        return cursor.name().map(AlterAction::SetSchema);
    }
    if cursor.take(&["SET"]) {
        if cursor.sees_token(&Token::LParen) {
            return options::list(cursor).map(AlterAction::SetOptions);
        }
        // `ALTER PIPELINE p SET PARALLELISM = 4`, also with TO.
        let name = options::name(cursor)?;
        let _ = cursor.take_token(&Token::Eq) || cursor.take(&["TO"]);
        let value = options::value(cursor)?;
        return Ok(AlterAction::SetOptions(crate::options::RawOptions(vec![(name, value)])));
    }
    if cursor.take(&["RESET"]) {
        return options::names(cursor).map(AlterAction::ResetOptions);
    }
    if kind == ObjectKind::Table {
        return alter_column(cursor);
    }
    Err(cursor.unexpected("SET, RESET, RENAME TO or OWNER TO"))
}

fn alter_column(cursor: &mut Cursor<'_>) -> Result<AlterAction> {
    if cursor.take(&["ADD"]) {
        cursor.take(&["COLUMN"]);
        let if_not_exists = cursor.if_not_exists();
        let (column, _) = create_table::column(cursor)?;
        return Ok(AlterAction::AddColumn { column, if_not_exists });
    }
    if cursor.take(&["DROP"]) {
        cursor.take(&["COLUMN"]);
        let if_exists = cursor.if_exists();
        let name = cursor.name()?;
        let cascade = cursor.take(&["CASCADE"]);
        let _ = !cascade && cursor.take(&["RESTRICT"]);
        return Ok(AlterAction::DropColumn {
            name,
            if_exists,
            cascade,
        });
    }
    if cursor.take(&["RENAME"]) {
        cursor.take(&["COLUMN"]);
        let name = cursor.name()?;
        cursor.expect(&["TO"])?;
        return Ok(AlterAction::RenameColumn {
            name,
            new_name: cursor.name()?,
        });
    }
    Err(cursor.unexpected("ADD, DROP, RENAME, SET, RESET or OWNER TO"))
}

pub fn validate_connection(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["VALIDATE", "CONNECTION"])?;
    Ok(Statement::ValidateConnection {
        name: cursor.qualified_name()?,
    })
}

pub fn start_pipeline(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["START", "PIPELINE"])?;
    Ok(Statement::StartPipeline {
        name: cursor.qualified_name()?,
    })
}

/// `STOP [WITH CHECKPOINT | NOW] PIPELINE name`; the words may also follow the name.
pub fn stop_pipeline(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["STOP"])?;
    let before = stop_word(cursor);
    cursor.expect(&["PIPELINE"])?;
    let name = cursor.qualified_name()?;
    let mode = match before {
        StopWord::Default => stop_word(cursor),
        said => said,
    };
    Ok(Statement::StopPipeline { name, mode })
}

fn stop_word(cursor: &mut Cursor<'_>) -> StopWord {
    if cursor.take(&["WITH", "CHECKPOINT"]) {
        StopWord::WithCheckpoint
    } else if cursor.take(&["NOW"]) {
        StopWord::Now
    } else {
        StopWord::Default
    }
}

/// `RESTART [FROM CHECKPOINT n] PIPELINE name`; the words may also follow the name.
pub fn restart_pipeline(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["RESTART"])?;
    let before = from_checkpoint(cursor)?;
    cursor.expect(&["PIPELINE"])?;
    let name = cursor.qualified_name()?;
    let after = from_checkpoint(cursor)?;
    Ok(Statement::RestartPipeline {
        name,
        from_checkpoint: before.or(after),
    })
}

fn from_checkpoint(cursor: &mut Cursor<'_>) -> Result<Option<u64>> {
    if !cursor.take(&["FROM", "CHECKPOINT"]) {
        return Ok(None);
    }
    cursor.integer().map(Some)
}

/// `CHECKPOINT PIPELINE name`; CHECKPOINT alone is Postgres's.
pub fn checkpoint(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CHECKPOINT"])?;
    if cursor.at_end() {
        return Ok(Statement::Accepted {
            tag: "CHECKPOINT",
            notice: Some("CHECKPOINT alone does nothing here; use CHECKPOINT PIPELINE name"),
        });
    }
    cursor.expect(&["PIPELINE"])?;
    Ok(Statement::Checkpoint {
        pipeline: cursor.qualified_name()?,
        label: None,
    })
}

/// `CREATE CHECKPOINT label FOR PIPELINE name`.
pub fn create_checkpoint(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE", "CHECKPOINT"])?;
    let label = if cursor.sees_string() {
        cursor.string()?
    } else {
        cursor.name()?
    };
    cursor.expect(&["FOR", "PIPELINE"])?;
    Ok(Statement::Checkpoint {
        pipeline: cursor.qualified_name()?,
        label: Some(label),
    })
}
