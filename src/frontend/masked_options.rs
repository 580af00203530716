//! Options as they may be shown: what is secret in them and was written as plain text is masked.
//!
//! Which options are secret is the connector's to say. Passwords inside of URLs are found by themselves. Not found: a password that
//! somebody put where none belongs.

use crate::engine::connectors::{self, OptionKind};
use crate::options::{RawOptionValue, RawOptions, normalize_name};

pub const MASK: &str = "********";

/// Normalized names of a connector's options that hold secrets, in all their spellings.
pub fn secret_names(connector: &str) -> Vec<String> {
    let Ok(connector) = connectors::find(connector) else {
        return Vec::new();
    };
    let options = connector.describe().options.into_iter();
    options
        .filter(|option| option.kind == OptionKind::Secret)
        .flat_map(|option| std::iter::once(option.name).chain(option.aliases.iter().copied()))
        .map(normalize_name)
        .collect()
}

/// `SECRET name` and `{{ VARIABLE }}` stay: they tell nothing.
pub fn masked(options: &RawOptions, connector: Option<&str>) -> RawOptions {
    let secret = connector.map(secret_names).unwrap_or_default();
    let shown = |name: &str, value: &RawOptionValue| match value {
        RawOptionValue::Text(text) if is_variable(text) => value.clone(),
        RawOptionValue::Text(text) if normalize_name(name) == "url" && !text.contains("password=") => {
            RawOptionValue::Text(without_password(text))
        }
        RawOptionValue::Text(_) if secret.contains(&normalize_name(name)) => RawOptionValue::Text(MASK.to_owned()),
        RawOptionValue::Text(text) => RawOptionValue::Text(without_password(text)),
        RawOptionValue::Secret(_) => value.clone(),
    };
    RawOptions(
        options
            .0
            .iter()
            .map(|(name, value)| (name.clone(), shown(name, value)))
            .collect(),
    )
}

fn is_variable(text: &str) -> bool {
    let inside = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inside.is_some_and(|inside| !inside.contains("{{") && !inside.contains("}}"))
}

/// `scheme://user:password@host`, in each of several URLs with commas.
fn without_password(text: &str) -> String {
    let one = |url: &str| {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (login, _) = authority.rsplit_once('@')?;
        let (user, password) = login.split_once(':')?;
        (!is_variable(password)).then(|| format!("{scheme}://{user}:{MASK}{}", &rest[login.len()..]))
    };
    let urls = text.split(',').map(|url| one(url).unwrap_or_else(|| url.to_owned()));
    urls.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_and_nothing_else() {
        for (given, shown) in [
            ("https://me:hunter2@host:1/x", "https://me:********@host:1/x"),
            ("https://me:hun@ter2@host", "https://me:********@host"),
            ("http://a:1, https://me:hunter2@b", "http://a:1, https://me:********@b"),
            ("https://me:{{ PASSWORD }}@host", "https://me:{{ PASSWORD }}@host"),
            ("https://me@host/a:b@c", "https://me@host/a:b@c"),
            ("s3://bucket/a,b", "s3://bucket/a,b"),
        ] {
            assert_eq!(without_password(given), shown);
        }
        let text = |text: &str| RawOptionValue::Text(text.to_owned());
        let options = RawOptions(vec![
            ("auth.password".to_owned(), text("hunter2")),
            ("sasl_password".to_owned(), text("{{ PASSWORD }}")),
            ("sasl_username".to_owned(), text("me")),
            ("ssl_key".to_owned(), RawOptionValue::Secret("key".to_owned())),
        ]);
        let mut expected = options.clone();
        expected.0[0].1 = text(MASK);
        assert_eq!(masked(&options, Some("kafka")), expected);
        assert_eq!(masked(&options, None), options);
    }
}
