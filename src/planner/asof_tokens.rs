//! `ASOF [LEFT] JOIN t MATCH_CONDITION (c) ON p` in words that the SQL parser knows, which has this join without LEFT only.
//!
//! ASOF becomes the mark that the parser keeps of a `GLOBAL` join, and `MATCH_CONDITION (c) ON p` becomes `ON asof_match (c) AND p`;
//! `bind::asof_joins` takes both apart again. Tokens keep their text and place. (So `GLOBAL` before JOIN means nothing any more; it is
//! an ordinary name, as in Postgres.)

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

/// What stands in ON for `MATCH_CONDITION`.
pub const MATCH: &str = "asof_match";

/// Respells every ASOF join.
pub fn respell(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        if keyword(tokens, at) == Some(Keyword::ASOF)
            && let Some(join) = join_after(tokens, at)
        {
            respell_join(tokens, at, join);
        }
        at += 1;
    }
}

/// Where the JOIN of `ASOF [LEFT [OUTER]] JOIN` is.
fn join_after(tokens: &[TokenWithSpan], asof: usize) -> Option<usize> {
    use Keyword::{FULL, INNER, JOIN, LEFT, OUTER, RIGHT};
    let mut at = next(tokens, asof + 1)?;
    if let Some(LEFT | RIGHT | FULL | INNER) = keyword(tokens, at) {
        at = next(tokens, at + 1)?;
    }
    if keyword(tokens, at) == Some(OUTER) {
        at = next(tokens, at + 1)?;
    }
    (keyword(tokens, at) == Some(JOIN)).then_some(at)
}

fn respell_join(tokens: &mut Vec<TokenWithSpan>, asof: usize, join: usize) {
    let Some(condition) = match_condition(tokens, join + 1) else {
        set_keyword(&mut tokens[asof], Keyword::GLOBAL);
        return;
    };
    let after = group_end(tokens, condition).and_then(|end| next(tokens, end + 1));
    match after.and_then(|at| keyword(tokens, at)) {
        // Left as it is, which the parser reads when there is no LEFT.
        Some(Keyword::USING) => return,
        Some(Keyword::ON) => {
            if let Some(on) = after {
                set_keyword(&mut tokens[on], Keyword::AND);
            }
        }
        _ => {}
    }
    set_keyword(&mut tokens[asof], Keyword::GLOBAL);
    set_keyword(&mut tokens[condition], Keyword::ON);
    let place = tokens[condition].span.end;
    let function = Token::Word(Word {
        value: MATCH.to_owned(),
        quote_style: None,
        keyword: Keyword::NoKeyword,
    });
    tokens.insert(condition + 1, TokenWithSpan::new(function, Span::new(place, place)));
}

/// The `MATCH_CONDITION` that belongs to the JOIN before `at`.
fn match_condition(tokens: &[TokenWithSpan], mut at: usize) -> Option<usize> {
    loop {
        at = next(tokens, at)?;
        match &tokens[at].token {
            Token::LParen => at = group_end(tokens, at)?,
            Token::RParen | Token::SemiColon => return None,
            _ => match keyword(tokens, at) {
                Some(Keyword::MATCH_CONDITION) => {
                    let group = next(tokens, at + 1)?;
                    return (tokens[group].token == Token::LParen).then_some(at);
                }
                Some(Keyword::ON | Keyword::USING | Keyword::JOIN | Keyword::WHERE) => return None,
                _ => {}
            },
        }
        at += 1;
    }
}

/// Where the first parenthesis at or after `at` is closed.
fn group_end(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return Some(place),
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The first token at or after `at` that is no space.
fn next(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let is_word = |place: &usize| !matches!(tokens[*place].token, Token::Whitespace(_));
    (at..tokens.len()).find(is_word)
}

fn keyword(tokens: &[TokenWithSpan], at: usize) -> Option<Keyword> {
    match &tokens[at].token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
        _ => None,
    }
}

fn set_keyword(token: &mut TokenWithSpan, keyword: Keyword) {
    if let Token::Word(word) = &mut token.token {
        word.keyword = keyword;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::planner::dialect::parse_query;

    fn reads(sql: &str) -> String {
        parse_query(sql).unwrap().to_string()
    }

    #[test]
    fn the_match_condition_goes_first() {
        let expected =
            "SELECT * FROM a GLOBAL LEFT JOIN b AS c ON asof_match(a.t >= (c.t)) AND a.k = c.k OR a.x WHERE z";
        let read =
            reads("SELECT * FROM a ASOF LEFT JOIN b AS c MATCH_CONDITION (a.t >= (c.t)) ON a.k = c.k OR a.x WHERE z");
        assert_eq!(read, expected);
        assert_eq!(
            reads(
                "SELECT 1 FROM a ASOF JOIN (SELECT 1 FROM x JOIN y ON p) b MATCH_CONDITION (c) ASOF JOIN d MATCH_CONDITION (e) ON f"
            ),
            "SELECT 1 FROM a GLOBAL JOIN (SELECT 1 FROM x JOIN y ON p) b ON asof_match(c) \
             GLOBAL JOIN d ON asof_match(e) AND f"
        );
    }

    #[test]
    fn without_a_match_condition_the_join_is_marked_only() {
        assert_eq!(
            reads("SELECT 1 FROM a ASOF JOIN b ON a.k = b.k AND a.t >= b.t"),
            "SELECT 1 FROM a GLOBAL JOIN b ON a.k = b.k AND a.t >= b.t"
        );
    }

    #[test]
    fn elsewhere_the_words_are_names() {
        for sql in [
            "SELECT asof, global, match_condition FROM t AS asof",
            "SELECT 1 FROM a AS x JOIN b ON asof.y",
            "SELECT 1 FROM t global JOIN u ON true",
        ] {
            let read = reads(sql);
            assert!(!read.contains("GLOBAL"), "{read}");
        }
    }
}
