//! The SQL of queries and expressions, whether a client sent them or the catalog keeps them.
//!
//! Postgres's dialect, and the few spellings of streaming queries beside it.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{Expr, Query};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, TokenizerError};

use crate::error::{ErrorReport, SqlState};
use crate::planner::asof_tokens;
use crate::planner::error::{Error, Result};

/// Nesting that is read before giving up.
const NESTING_MAX: usize = 128;

/// Parses one query; a trailing semicolon is allowed.
pub fn parse_query(text: &str) -> Result<Box<Query>> {
    let dialect = QueryDialect;
    let parse = || -> Result<Box<Query>, ParserError> {
        let mut parser = Parser::new(&dialect)
            .with_recursion_limit(NESTING_MAX)
            .with_tokens_with_locations(tokens(text)?);
        let query = parser.parse_query()?;
        let _ = parser.consume_token(&Token::SemiColon);
        parser.expect_token(&Token::EOF)?;
        Ok(query)
    };
    parse().map_err(|error| syntax_error(&error))
}

/// Parses one expression.
pub fn parse_expression(text: &str) -> Result<Expr> {
    let dialect = QueryDialect;
    let parse = || -> Result<Expr, ParserError> {
        let mut parser = Parser::new(&dialect)
            .with_recursion_limit(NESTING_MAX)
            .with_tokens_with_locations(tokens(text)?);
        let expression = parser.parse_expr()?;
        parser.expect_token(&Token::EOF)?;
        Ok(expression)
    };
    parse().map_err(|error| syntax_error(&error))
}

fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, TokenizerError> {
    let mut tokens = Vec::new();
    Tokenizer::new(&QueryDialect, text).tokenize_with_location_into_buf_with_mapper(&mut tokens, as_postgres)?;
    asof_tokens::respell(&mut tokens);
    Ok(tokens)
}

/// The token as Postgres has it: `top` is a name there, which the parser would read as the beginning of `TOP n`; so is `global`.
pub fn as_postgres(mut token: TokenWithSpan) -> TokenWithSpan {
    if let Token::Word(word) = &mut token.token
        && matches!(word.keyword, Keyword::TOP | Keyword::GLOBAL)
    {
        word.keyword = Keyword::NoKeyword;
    }
    token
}

fn syntax_error(error: &ParserError) -> Error {
    let (code, message) = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            (SqlState::SYNTAX_ERROR, message.as_str())
        }
        ParserError::RecursionLimitExceeded => (SqlState::STATEMENT_TOO_COMPLEX, "the expression is nested too deeply"),
    };
    Error::Query(ErrorReport::new(code, format!("syntax error: {message}")))
}

macro_rules! enabled {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { true })* };
}

/// Postgres with struct and array types written with angle brackets.
#[derive(Debug)]
pub struct QueryDialect;

impl Dialect for QueryDialect {
    /// Parts of the parser ask which dialect this is: Postgres.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn identifier_quote_style(&self, _identifier: &str) -> Option<char> {
        Some('"')
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        character == '"'
    }

    fn is_identifier_start(&self, character: char) -> bool {
        PostgreSqlDialect {}.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        PostgreSqlDialect {}.is_identifier_part(character)
    }

    fn is_custom_operator_part(&self, character: char) -> bool {
        PostgreSqlDialect {}.is_custom_operator_part(character)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        PostgreSqlDialect {}.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        PostgreSqlDialect {}.prec_value(precedence)
    }

    /// `TABLE t` as the argument of a table function: the table's name.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if !parser.parse_keyword(Keyword::TABLE) {
            return None;
        }
        Some(parser.parse_object_name(false).map(|name| {
            let parts = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
            Expr::CompoundIdentifier(parts)
        }))
    }

    /// `a IS [NOT] DISTINCT FROM b` ends where an operator follows that binds less, such as AND; the parser alone would take
    /// the rest of the condition for a part of b.
    fn parse_infix(&self, parser: &mut Parser, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        use Keyword::{DISTINCT, FROM, IS, NOT};
        let same = match () {
            () if parser.parse_keywords(&[IS, DISTINCT, FROM]) => false,
            () if parser.parse_keywords(&[IS, NOT, DISTINCT, FROM]) => true,
            () => return None,
        };
        let left = Box::new(left.clone());
        Some(parser.parse_subexpr(precedence).map(|right| match same {
            true => Expr::IsNotDistinctFrom(left, Box::new(right)),
            false => Expr::IsDistinctFrom(left, Box::new(right)),
        }))
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        PostgreSqlDialect {}.is_reserved_for_identifier(keyword)
    }

    // As Postgres.
    enabled! {
        allow_extract_custom allow_extract_single_quotes supports_alter_column_type_using
        supports_array_typedef_with_brackets supports_bitwise_shift_operators supports_comma_separated_trim
        supports_comment_on supports_create_index_with_clause supports_create_table_like_parenthesized
        supports_empty_projections supports_explain_with_utility_options supports_factorial_operator
        supports_filter_during_aggregation supports_geometric_types supports_group_by_expr supports_insert_table_alias
        supports_interval_options supports_listen_notify supports_load_extension
        supports_named_fn_args_with_colon_operator supports_named_fn_args_with_expr_name supports_nested_comments
        supports_notnull_operator supports_numeric_literal_underscores supports_select_wildcard_with_alias
        supports_set_names supports_string_escape_constant supports_unicode_string_literal supports_xml_expressions
    }

    // Beyond Postgres: `CAST(x AS STRUCT<a INT>)`, `MAP {..}`, `SELECT * EXCLUDE`, `IGNORE NULLS`, `FOR SYSTEM_TIME AS OF`.
    enabled! {
        supports_struct_literal support_map_literal_syntax supports_map_literal_with_angle_brackets
        supports_select_wildcard_exclude supports_window_function_null_treatment_arg supports_data_type_signed_suffix
        supports_table_versioning supports_window_clause_named_window_reference
    }
}
