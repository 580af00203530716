//! Spellings that only mean something to Postgres's catalog: casts to `regclass` and its kin, `ARRAY(SELECT ..)`,
//! set-returning functions of columns in FROM, string literals cast to arrays.

use datafusion::sql::sqlparser::ast::{
    Array, CastKind, CharacterLength, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectNamePart, Query, SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, Value,
};

use crate::planner::bind::names;
use crate::planner::bind::syntax::{call, function_name};
use crate::planner::dialect;
use crate::planner::functions::{arrays, catalog};

/// Rewrites one expression whose parts are rewritten already.
pub fn rewrite_expression(expr: &mut Expr) {
    match expr {
        Expr::Cast { .. } => rewrite_cast(expr),
        Expr::Function(function) => {
            if let Some(query) = array_of_query(function) {
                *expr = query;
            } else {
                name_value_pairs(function);
            }
        }
        Expr::Identifier(ident)
            if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("current_schema") =>
        {
            *expr = call("current_schema", Vec::new());
        }
        _ => {}
    }
}

fn rewrite_cast(expr: &mut Expr) {
    let Expr::Cast {
        kind: CastKind::Cast | CastKind::DoubleColon,
        expr: inner,
        data_type,
        ..
    } = expr
    else {
        return;
    };
    let of = type_word(data_type);
    if let Some((to_oid, to_name)) = catalog::cast_functions(&of) {
        let named = is_string(inner);
        // An OID shown as a name, or a name that means an OID.
        let function = if named { to_oid } else { to_name };
        *expr = call(function, vec![inner.as_ref().clone()]);
        return;
    }
    // `'t'::regclass::text` is the name, `x::regclass::oid` the number.
    if let Expr::Function(function) = inner.as_ref() {
        let (is_oid, is_name) = reg_function(function);
        if is_oid.is_some() && matches!(of.as_str(), "text" | "varchar" | "name") {
            if let Some(to_name) = is_oid {
                *expr = call(to_name, vec![inner.as_ref().clone()]);
            }
            return;
        }
        if is_name
            && matches!(of.as_str(), "oid" | "int" | "int4" | "integer" | "int8" | "bigint")
            && let Some(argument) = only_argument(function)
        {
            **inner = argument;
            return;
        }
    }
    if let Some(length) = text_length(data_type) {
        *expr = cut_off(inner, length);
        return;
    }
    // `'{1,2}'::int[]`.
    if let DataType::Array(element) = data_type
        && let Some(text) = string_value(inner)
        && let Some(values) = arrays::elements(text)
        && let Some(element) = element_type(element)
    {
        let elem = values
            .into_iter()
            .map(|value| Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::Value(
                    match value {
                        Some(value) => Value::SingleQuotedString(value),
                        None => Value::Null,
                    }
                    .with_empty_span(),
                )),
                data_type: element.clone(),
                array: false,
                format: None,
            })
            .collect::<Vec<_>>();
        if !elem.is_empty() {
            **inner = Expr::Array(Array { elem, named: true });
        }
    }
}

/// The `n` of `VARCHAR(n)` and `CHAR(n)`.
fn text_length(data_type: &DataType) -> Option<u64> {
    match data_type {
        DataType::Varchar(length)
        | DataType::CharacterVarying(length)
        | DataType::CharVarying(length)
        | DataType::Nvarchar(length)
        | DataType::Char(length)
        | DataType::Character(length) => match length {
            Some(CharacterLength::IntegerLength { length, .. }) => Some(*length),
            _ => None,
        },
        _ => None,
    }
}

/// A cast keeps as many characters as the type has.
fn cut_off(value: &Expr, length: u64) -> Expr {
    let text = Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(value.clone()),
        data_type: DataType::Text,
        array: false,
        format: None,
    };
    let length = Expr::Value(Value::Number(length.to_string(), false).with_empty_span());
    call("left", vec![text, length])
}

fn element_type(element: &datafusion::sql::sqlparser::ast::ArrayElemTypeDef) -> Option<DataType> {
    use datafusion::sql::sqlparser::ast::ArrayElemTypeDef;
    match element {
        ArrayElemTypeDef::AngleBracket(of)
        | ArrayElemTypeDef::SquareBracket(of, _)
        | ArrayElemTypeDef::Parenthesis(of) => Some(of.as_ref().clone()),
        ArrayElemTypeDef::None => None,
    }
}

/// Whether a call gives an OID out of a name (then what gives the name again), or a name out of an OID.
fn reg_function(function: &Function) -> (Option<&'static str>, bool) {
    let name = function_name(function);
    for of in ["regclass", "regtype", "regnamespace", "regproc", "regrole"] {
        if let Some((to_oid, to_name)) = catalog::cast_functions(of) {
            if name == to_oid {
                return (Some(to_name), false);
            }
            if name == to_name {
                return (None, true);
            }
        }
    }
    (None, false)
}

/// `SELECT 't'::regclass` shows the name.
pub fn show_names(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        if let Expr::Function(function) = expr
            && let (Some(to_name), _) = reg_function(function)
        {
            *expr = call(to_name, vec![expr.clone()]);
        }
    }
}

fn type_word(data_type: &DataType) -> String {
    data_type.to_string().to_lowercase().replace("pg_catalog.", "")
}

fn is_string(expr: &Expr) -> bool {
    string_value(expr).is_some()
}

fn string_value(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
            _ => None,
        },
        Expr::Nested(inner) => string_value(inner),
        _ => None,
    }
}

fn only_argument(function: &Function) -> Option<Expr> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] => Some(argument.clone()),
        _ => None,
    }
}

/// `ARRAY(SELECT x ..)` is `(SELECT array_agg(x) FROM (SELECT x ..))`.
fn array_of_query(function: &Function) -> Option<Expr> {
    let FunctionArguments::Subquery(query) = &function.args else {
        return None;
    };
    if function_name(function) != "array" {
        return None;
    }
    let mut around = dialect::parse_query("SELECT array_agg(element) FROM (SELECT 1) AS elements(element)").ok()?;
    let SetExpr::Select(select) = around.body.as_mut() else {
        return None;
    };
    if let TableFactor::Derived { subquery, .. } = &mut select.from.first_mut()?.relation {
        *subquery = query.clone();
    }
    Some(Expr::Subquery(around))
}

/// `JSON_OBJECT('k' VALUE v)` and `JSON_OBJECT('k': v)` as plain arguments.
fn name_value_pairs(function: &mut Function) {
    if !function_name(function).starts_with("json_object") {
        return;
    }
    let FunctionArguments::List(list) = &mut function.args else {
        return;
    };
    let mut args = Vec::with_capacity(list.args.len());
    for argument in list.args.drain(..) {
        match argument {
            FunctionArg::ExprNamed { name, arg, .. } => {
                args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(name)));
                args.push(FunctionArg::Unnamed(arg));
            }
            FunctionArg::Named { name, arg, .. } => {
                let key = Value::SingleQuotedString(names::folded(&name)).with_empty_span();
                args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(key))));
                args.push(FunctionArg::Unnamed(arg));
            }
            unnamed => args.push(unnamed),
        }
    }
    list.args = args;
    list.clauses.clear();
}

/// A set-returning function in FROM whose arguments are not constants becomes a subquery that unnests it.
pub fn rewrite_table_function(factor: &mut TableFactor) {
    let (name, args, alias, ordinality) = match &*factor {
        TableFactor::Table {
            name,
            args: Some(args),
            alias,
            with_ordinality,
            ..
        } => (name, &args.args, alias, *with_ordinality),
        TableFactor::Function {
            name,
            args,
            alias,
            with_ordinality,
            ..
        } => (name, args, alias, *with_ordinality),
        _ => return,
    };
    let function = name
        .0
        .last()
        .and_then(ObjectNamePart::as_ident)
        .map(names::folded)
        .unwrap_or_default();
    let arguments: Vec<Expr> = args
        .iter()
        .filter_map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect();
    let template = match function.as_str() {
        "generate_series" if !arguments.iter().all(is_constant) => "SELECT unnest(lm_call()) AS value",
        "unnest" => "SELECT unnest(lm_call()) AS value",
        // No relation of Laminar is a partition.
        "pg_partition_ancestors" if ordinality => "SELECT lm_call() AS relid, 1 AS depth WHERE false",
        "pg_partition_ancestors" => "SELECT lm_call() AS relid WHERE false",
        _ => return,
    };
    let value = match (function.as_str(), arguments.as_slice()) {
        ("unnest", [only]) => only.clone(),
        ("unnest", _) => return,
        _ => call(&function, arguments),
    };
    let Ok(mut subquery) = dialect::parse_query(template) else {
        return;
    };
    put_value(&mut subquery, &value);
    let alias = called(alias.as_ref(), &function);
    *factor = TableFactor::Derived {
        lateral: false,
        subquery,
        alias: Some(alias),
        sample: None,
    };
}

/// The alias of a function in FROM; its only column is called as the table.
fn called(alias: Option<&TableAlias>, function: &str) -> TableAlias {
    let mut alias = alias.cloned().unwrap_or_else(|| TableAlias {
        explicit: false,
        name: Ident::new(function),
        columns: Vec::new(),
        at: None,
    });
    if alias.columns.is_empty() && function != "pg_partition_ancestors" {
        alias.columns.push(TableAliasColumnDef {
            name: alias.name.clone(),
            data_type: None,
        });
    }
    alias
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Value(_) | Expr::Interval(_) | Expr::TypedString(_) => true,
        Expr::UnaryOp { expr, .. } | Expr::Nested(expr) | Expr::Cast { expr, .. } => is_constant(expr),
        _ => false,
    }
}

fn put_value(query: &mut Query, value: &Expr) {
    struct Put<'a>(&'a Expr);
    impl datafusion::sql::sqlparser::ast::VisitorMut for Put<'_> {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> std::ops::ControlFlow<()> {
            if let Expr::Function(function) = expr
                && function_name(function) == "lm_call"
            {
                *expr = self.0.clone();
            }
            std::ops::ControlFlow::Continue(())
        }
    }
    let _: std::ops::ControlFlow<()> = datafusion::sql::sqlparser::ast::VisitMut::visit(query, &mut Put(value));
}
