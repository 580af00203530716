//! Values as they come over the extended protocol in binary, written as the text protocol would write them.
//!
//! Covers the types that the tests ask for; others are an error, so that a test cannot pass by comparing nothing.

use tokio_postgres::types::{FromSql, Type};

/// A value of any type, as text.
pub struct AsText(pub String);

impl<'a> FromSql<'a> for AsText {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        render(ty, raw).map(AsText)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

type Rendered = Result<String, Box<dyn std::error::Error + Sync + Send>>;

fn render(ty: &Type, raw: &[u8]) -> Rendered {
    if let tokio_postgres::types::Kind::Array(element) = ty.kind() {
        return render_array(element, raw);
    }
    Ok(match *ty {
        Type::BOOL => if raw.first() == Some(&1) { "t" } else { "f" }.into(),
        Type::INT2 => i16::from_be_bytes(raw.try_into()?).to_string(),
        Type::INT4 => i32::from_be_bytes(raw.try_into()?).to_string(),
        Type::INT8 => i64::from_be_bytes(raw.try_into()?).to_string(),
        Type::OID | Type::REGCLASS | Type::REGTYPE => u32::from_be_bytes(raw.try_into()?).to_string(),
        Type::FLOAT4 => float(
            f64::from(f32::from_be_bytes(raw.try_into()?)),
            f32::from_be_bytes(raw.try_into()?).to_string(),
        ),
        Type::FLOAT8 => {
            let value = f64::from_be_bytes(raw.try_into()?);
            float(value, value.to_string())
        }
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON | Type::UNKNOWN => {
            String::from_utf8(raw.to_vec())?
        }
        Type::CHAR => String::from_utf8(raw.to_vec())?,
        Type::JSONB => String::from_utf8(raw.get(1..).unwrap_or_default().to_vec())?,
        Type::BYTEA => format!(
            "\\x{}",
            raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        ),
        Type::UUID => {
            let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
            format!(
                "{}-{}-{}-{}-{}",
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..]
            )
        }
        Type::DATE => date(i64::from(i32::from_be_bytes(raw.try_into()?))),
        Type::TIME => time_of_day(i64::from_be_bytes(raw.try_into()?)),
        Type::TIMESTAMP => timestamp(i64::from_be_bytes(raw.try_into()?)),
        Type::TIMESTAMPTZ => format!("{}+00", timestamp(i64::from_be_bytes(raw.try_into()?))),
        Type::NUMERIC => numeric(raw)?,
        Type::INTERVAL => interval(raw)?,
        _ => return Err(format!("no text form for type {ty} in the test runner").into()),
    })
}

fn float(value: f64, shortest: String) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        shortest
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

fn date(days_since_2000: i64) -> String {
    let (year, month, day) = civil(days_since_2000 + 10_957);
    format!("{year:04}-{month:02}-{day:02}")
}

fn time_of_day(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        text.push('.');
        text.push_str(format!("{fraction:06}").trim_end_matches('0'));
    }
    text
}

fn timestamp(micros_since_2000: i64) -> String {
    format!(
        "{} {}",
        date(micros_since_2000.div_euclid(DAY_MICROS)),
        time_of_day(micros_since_2000.rem_euclid(DAY_MICROS))
    )
}

/// Days since 1970 to year, month, day; Howard Hinnant's civil-from-days.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

fn numeric(raw: &[u8]) -> Rendered {
    let word = |index: usize| -> Result<i16, Box<dyn std::error::Error + Sync + Send>> {
        Ok(i16::from_be_bytes(
            raw.get(index * 2..index * 2 + 2).ok_or("short numeric")?.try_into()?,
        ))
    };
    let (digits, weight, sign, scale) = (word(0)?, word(1)?, word(2)? as u16, word(3)?);
    if sign == 0xC000 {
        return Ok("NaN".into());
    }
    let group = |position: i16| -> Result<i16, Box<dyn std::error::Error + Sync + Send>> {
        let index = weight - position;
        if index < 0 || index >= digits {
            Ok(0)
        } else {
            word(4 + index as usize)
        }
    };
    let mut text = String::new();
    let mut position = weight.max(0);
    while position >= 0 {
        let digits = group(position)?;
        text.push_str(&if text.is_empty() {
            digits.to_string()
        } else {
            format!("{digits:04}")
        });
        position -= 1;
    }
    if text.len() > 1 && text.starts_with('0') {
        text = text.trim_start_matches('0').to_owned();
    }
    if scale > 0 {
        let mut fraction = String::new();
        while (fraction.len() as i16) < scale {
            fraction.push_str(&format!("{:04}", group(position)?));
            position -= 1;
        }
        text = format!(
            "{}.{}",
            if text.is_empty() { "0" } else { &text },
            &fraction[..scale as usize]
        );
    }
    Ok(if sign == 0x4000 { format!("-{text}") } else { text })
}

fn interval(raw: &[u8]) -> Rendered {
    let micros = i64::from_be_bytes(raw.get(..8).ok_or("short interval")?.try_into()?);
    let days = i32::from_be_bytes(raw.get(8..12).ok_or("short interval")?.try_into()?);
    let months = i32::from_be_bytes(raw.get(12..16).ok_or("short interval")?.try_into()?);
    let plural = |count: i32, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    if months / 12 != 0 {
        parts.push(plural(months / 12, "year"));
    }
    if months % 12 != 0 {
        parts.push(plural(months % 12, "mon"));
    }
    if days != 0 {
        parts.push(plural(days, "day"));
    }
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 { "-" } else { "" };
        parts.push(format!("{sign}{}", time_of_day(micros.abs())));
    }
    Ok(parts.join(" "))
}

fn render_array(element: &Type, raw: &[u8]) -> Rendered {
    let number = |at: usize| -> Result<i32, Box<dyn std::error::Error + Sync + Send>> {
        Ok(i32::from_be_bytes(
            raw.get(at..at + 4).ok_or("short array")?.try_into()?,
        ))
    };
    if number(0)? == 0 {
        return Ok("{}".into());
    }
    let count = number(12)?;
    let mut at = 20;
    let mut items = Vec::new();
    for _ in 0..count {
        let length = number(at)?;
        at += 4;
        if length < 0 {
            items.push("NULL".to_owned());
            continue;
        }
        let end = at + usize::try_from(length)?;
        let text = render(element, raw.get(at..end).ok_or("short array")?)?;
        at = end;
        let quote =
            text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(['"', '\\', '{', '}', ',', ' ']);
        items.push(if quote {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            text
        });
    }
    Ok(format!("{{{}}}", items.join(",")))
}
