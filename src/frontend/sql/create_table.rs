//! `CREATE TABLE`: columns with metadata and generated ones, constraints, watermarks, options, AS SELECT.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::catalog::objects::{Column, ColumnKind, ConstraintKind, WatermarkDefinition};
use crate::frontend::error::{Error, Result};
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::options;
use crate::frontend::sql::statement::{ConstraintText, CreateTable, Statement};

pub fn statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    table(cursor).map(|table| Statement::CreateTable(Box::new(table)))
}

pub fn table(cursor: &mut Cursor<'_>) -> Result<CreateTable> {
    cursor.expect(&["CREATE", "TABLE"])?;
    let mut table = CreateTable {
        if_not_exists: cursor.if_not_exists(),
        name: cursor.qualified_name()?,
        columns: None,
        primary_key: Vec::new(),
        constraints: Vec::new(),
        watermark: None,
        options: None,
        query: None,
    };
    if cursor.take_token(&Token::LParen) {
        table.columns = Some(Vec::new());
        elements(cursor, &mut table)?;
    }
    if cursor.take(&["WITH"]) {
        table.options = Some(options::list(cursor)?);
    }
    if cursor.take(&["AS"]) {
        table.query = Some(cursor.rest_as_query()?);
    }
    if table.columns.is_none() && table.options.is_none() && table.query.is_none() {
        return Err(cursor.unexpected("\"(\""));
    }
    refuse_to_enforce(&table)?;
    Ok(table)
}

/// What an outside system holds, nobody here can keep to rules.
fn refuse_to_enforce(table: &CreateTable) -> Result<()> {
    let enforced = table.constraints.iter().find_map(|constraint| match &constraint.kind {
        ConstraintKind::PrimaryKey => None,
        ConstraintKind::Unique { .. } => Some("UNIQUE"),
        ConstraintKind::Check { .. } => Some("CHECK"),
    });
    match enforced {
        Some(what) if table.options.is_some() => Err(unsupported_constraint(what)),
        _ => Ok(()),
    }
}

fn unsupported_constraint(what: &str) -> Error {
    Error::not_supported(
        format!("the constraint {what}"),
        "Filter rows in the query that reads the table, or declare a PRIMARY KEY.",
    )
}

fn elements(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<()> {
    if cursor.take_token(&Token::RParen) {
        return Ok(());
    }
    loop {
        element(cursor, table)?;
        if cursor.take_token(&Token::Comma) {
            continue;
        }
        if cursor.take_token(&Token::RParen) {
            return Ok(());
        }
        return Err(cursor.unexpected("\",\" or \")\""));
    }
}

fn element(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<()> {
    let name = constraint_name(cursor)?;
    if cursor.take(&["PRIMARY", "KEY"]) {
        let at = cursor.index();
        let names = cursor.name_list()?;
        let kind = ConstraintKind::PrimaryKey;
        table.constraints.push(ConstraintText {
            name,
            kind,
            column: None,
        });
        return set_primary_key(cursor, table, names, at);
    }
    if cursor.take(&["UNIQUE"]) {
        let kind = ConstraintKind::Unique {
            columns: cursor.name_list()?,
        };
        table.constraints.push(ConstraintText {
            name,
            kind,
            column: None,
        });
        return Ok(());
    }
    if cursor.take(&["CHECK"]) {
        let kind = check(cursor)?;
        table.constraints.push(ConstraintText {
            name,
            kind,
            column: None,
        });
        return Ok(());
    }
    if cursor.sees(&["WATERMARK", "FOR"]) {
        return watermark(cursor, table);
    }
    if cursor.sees(&["LIKE"]) {
        return Err(Error::not_supported(
            "CREATE TABLE .. LIKE",
            "Write the columns out; DESCRIBE shows them.",
        ));
    }
    refuse_constraint(cursor)?;
    let at = cursor.index();
    let (column, constraints) = column(cursor)?;
    let is_key = constraints
        .iter()
        .any(|constraint| constraint.kind == ConstraintKind::PrimaryKey);
    table.constraints.extend(constraints);
    let columns = table.columns.get_or_insert_default();
    if columns.iter().any(|other| other.name == column.name) {
        let message = format!("column \"{}\" specified more than once", column.name);
        return Err(Error::user(crate::error::SqlState::DUPLICATE_COLUMN, message));
    }
    let key = is_key.then(|| vec![column.name.clone()]);
    columns.push(column);
    match key {
        Some(names) => set_primary_key(cursor, table, names, at),
        None => Ok(()),
    }
}

fn set_primary_key(cursor: &Cursor<'_>, table: &mut CreateTable, names: Vec<String>, at: usize) -> Result<()> {
    if !table.primary_key.is_empty() {
        let message = format!(
            "multiple primary keys for table \"{}\" are not allowed",
            table.name.name
        );
        return Err(cursor.error_at(at, &message, None));
    }
    table.primary_key = names;
    Ok(())
}

fn watermark(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<()> {
    let at = cursor.index();
    cursor.expect(&["WATERMARK", "FOR"])?;
    if table.watermark.is_some() {
        return Err(cursor.error_at(at, "a table has one watermark", None));
    }
    let column = cursor.name()?;
    let expression = match cursor.take(&["AS"]) {
        true => Some(cursor.expression_text()?),
        false => None,
    };
    table.watermark = Some(WatermarkDefinition { column, expression });
    Ok(())
}

fn refuse_constraint(cursor: &Cursor<'_>) -> Result<()> {
    for (word, what) in [
        ("FOREIGN", "FOREIGN KEY"),
        ("REFERENCES", "REFERENCES"),
        ("EXCLUDE", "EXCLUDE"),
    ] {
        let is_constraint = cursor.sees(&[word]) && (word != "EXCLUDE" || cursor.sees(&["EXCLUDE", "USING"]));
        if is_constraint {
            return Err(unsupported_constraint(what));
        }
    }
    Ok(())
}

fn constraint_name(cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    match cursor.take(&["CONSTRAINT"]) {
        true => cursor.name().map(Some),
        false => Ok(None),
    }
}

/// The expression of a CHECK, in its parentheses.
fn check(cursor: &mut Cursor<'_>) -> Result<ConstraintKind> {
    let expression = parenthesized(cursor)?;
    // As dumps write it; what is there is checked either way.
    cursor.take(&["NO", "INHERIT"]);
    Ok(ConstraintKind::Check { expression })
}

/// `(expression)`, without the parentheses.
fn parenthesized(cursor: &mut Cursor<'_>) -> Result<String> {
    if !cursor.sees_token(&Token::LParen) {
        return Err(cursor.unexpected("\"(\""));
    }
    let close = cursor.closing()?;
    cursor.skip(1);
    let start = cursor.index();
    cursor.expression()?;
    if cursor.index() + 1 != close {
        return Err(cursor.unexpected("\")\""));
    }
    let expression = cursor.text_from(start).to_owned();
    cursor.skip(1);
    Ok(expression)
}

/// A column definition and the constraints in it; also `ALTER TABLE .. ADD COLUMN`.
pub fn column(cursor: &mut Cursor<'_>) -> Result<(Column, Vec<ConstraintText>)> {
    let mut column = Column {
        name: cursor.name()?,
        sql_type: type_text(cursor)?,
        not_null: false,
        default: None,
        kind: ColumnKind::Physical,
    };
    let mut constraints = Vec::new();
    while column_constraint(cursor, &mut column, &mut constraints)? {}
    if column.sql_type.is_empty() {
        return Err(cursor.unexpected("a type"));
    }
    Ok((column, constraints))
}

/// Reads one constraint; false when none comes.
fn column_constraint(
    cursor: &mut Cursor<'_>,
    column: &mut Column,
    constraints: &mut Vec<ConstraintText>,
) -> Result<bool> {
    let name = constraint_name(cursor)?;
    let of_column = |name: Option<String>, kind: ConstraintKind, column: &Column| ConstraintText {
        name,
        kind,
        column: Some(column.name.clone()),
    };
    if cursor.take(&["NOT", "NULL"]) {
        column.not_null = true;
    } else if cursor.take(&["NULL"]) {
        column.not_null = false;
    } else if cursor.take(&["PRIMARY", "KEY"]) {
        column.not_null = true;
        constraints.push(of_column(name, ConstraintKind::PrimaryKey, column));
    } else if cursor.take(&["UNIQUE"]) {
        let columns = vec![column.name.clone()];
        constraints.push(of_column(name, ConstraintKind::Unique { columns }, column));
    } else if cursor.take(&["CHECK"]) {
        let kind = check(cursor)?;
        constraints.push(of_column(name, kind, column));
    } else if cursor.take(&["DEFAULT"]) {
        column.default = Some(default_text(cursor)?);
    } else if cursor.take(&["METADATA", "FROM"]) {
        column.kind = ColumnKind::Metadata(cursor.string()?);
    } else if cursor.take(&["METADATA"]) {
        column.kind = ColumnKind::Metadata(column.name.clone());
    } else if cursor.take(&["GENERATED", "ALWAYS", "AS"]) || cursor.take(&["AS"]) {
        column.kind = generated(cursor)?;
    } else if cursor.take(&["COLLATE"]) {
        // Text is ordered by bytes whatever the collation: only the names that mean this are taken.
        let name = cursor.qualified_name()?;
        if !["C", "POSIX", "default", "ucs_basic"].contains(&name.name.as_str()) {
            return Err(Error::not_supported(
                format!("the collation \"{}\"", name.name),
                "Text is ordered by bytes, as with COLLATE \"C\".",
            ));
        }
    } else {
        refuse_constraint(cursor)?;
        return Ok(false);
    }
    Ok(true)
}

/// The expression behind DEFAULT. Its end is found first: `1 NOT NULL` is also an expression of Postgres.
fn default_text(cursor: &mut Cursor<'_>) -> Result<String> {
    let start = cursor.index();
    let mut depth = 0_usize;
    let mut end = start;
    while let Some(token) = cursor.peek_at(end - start) {
        match token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::Comma if depth == 0 => break,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Word(word)
                if depth == 0
                    && end > start
                    && word.quote_style.is_none()
                    && AFTER_TYPE.iter().any(|after| word.value.eq_ignore_ascii_case(after)) =>
            {
                break;
            }
            _ => {}
        }
        end += 1;
    }
    let mut inner = cursor.part(start..end);
    let text = inner.expression_text()?;
    inner.expect_end()?;
    cursor.skip(end - start);
    Ok(text)
}

fn generated(cursor: &mut Cursor<'_>) -> Result<ColumnKind> {
    if cursor.sees(&["IDENTITY"]) {
        return Err(Error::not_supported(
            "GENERATED AS IDENTITY",
            "Compute a key from the row's columns.",
        ));
    }
    let expression = parenthesized(cursor)?;
    let stored = cursor.take(&["STORED"]);
    let _ = !stored && cursor.take(&["VIRTUAL"]);
    Ok(ColumnKind::Generated { expression, stored })
}

/// Words that end a type in a column definition.
const AFTER_TYPE: &[&str] = &[
    "NOT",
    "NULL",
    "PRIMARY",
    "DEFAULT",
    "METADATA",
    "GENERATED",
    "AS",
    "UNIQUE",
    "CHECK",
    "REFERENCES",
    "COLLATE",
    "CONSTRAINT",
    "USING",
    "FIRST",
    "AFTER",
];

/// Reads a type and gives its exact text; what it means is for `types::parse`.
pub fn type_text(cursor: &mut Cursor<'_>) -> Result<String> {
    let start = cursor.index();
    let mut depth = 0_i32;
    while let Some(token) = cursor.peek() {
        let ends = depth == 0
            && (matches!(token, Token::Comma | Token::RParen | Token::Eq)
                || AFTER_TYPE.iter().any(|word| cursor.sees(&[word])));
        if ends {
            break;
        }
        let index = cursor.index();
        depth += bracket_balance(token, cursor.text(index..index + 1));
        if depth < 0 {
            break;
        }
        cursor.skip(1);
    }
    if depth != 0 || cursor.index() == start {
        return Err(cursor.unexpected("a type"));
    }
    Ok(cursor.text_from(start).to_owned())
}

/// How much deeper the nesting is behind a token; `>>` closes two.
fn bracket_balance(token: &Token, text: &str) -> i32 {
    match token {
        Token::LParen | Token::LBracket => 1,
        Token::RParen | Token::RBracket => -1,
        Token::Word(_) | Token::SingleQuotedString(_) => 0,
        _ => text.chars().map(|c| i32::from(c == '<') - i32::from(c == '>')).sum(),
    }
}
