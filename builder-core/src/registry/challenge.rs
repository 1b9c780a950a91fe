//! What a registry wants to see: the `WWW-Authenticate` header (RFC 7235, section 4.1).

use nom::branch::alt;
use nom::bytes::complete::{escaped_transform, is_not, tag, take_while, take_while1};
use nom::character::complete::{anychar, char};
use nom::combinator::{opt, value};
use nom::multi::separated_list1;
use nom::sequence::{delimited, separated_pair};
use nom::{IResult, Parser};

const CHALLENGES_MAX: usize = 16;

/// A way to log in that a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from the token service at `realm`.
    Bearer {
        /// The address of the token service.
        realm: String,
        /// The name that the registry has there.
        service: Option<String>,
    },
}

/// Reads the challenges of all `WWW-Authenticate` headers and takes the best: Bearer before Basic.
pub(super) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.flat_map(parse).take(CHALLENGES_MAX).collect();
    all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. })).or(all.first()).cloned()
}

/// Reads one header; what is not understood ends it.
fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Ok((after, (scheme, properties))) = challenge(rest) {
        let property = |name: &str| {
            properties.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => found.push(Challenge::Basic),
            "bearer" => {
                if let Some(realm) = property("realm") {
                    found.push(Challenge::Bearer { realm, service: property("service") });
                }
            }
            _ => {}
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
        if found.len() > CHALLENGES_MAX {
            break;
        }
    }
    found
}

type Properties = Vec<(String, String)>;

fn challenge(input: &str) -> IResult<&str, (&str, Properties)> {
    let (rest, _) = blank(input)?;
    let (rest, scheme) = token(rest)?;
    let (rest, properties) = opt((blank1, separated_list1(comma, property))).parse(rest)?;
    Ok((rest, (scheme, properties.map(|(_, list)| list).unwrap_or_default())))
}

fn property(input: &str) -> IResult<&str, (String, String)> {
    let equals = delimited(blank, char('='), blank);
    let text = alt((quoted, token.map(str::to_owned)));
    separated_pair(token.map(str::to_owned), equals, text).parse(input)
}

fn quoted(input: &str) -> IResult<&str, String> {
    let inside = opt(escaped_transform(is_not("\\\""), '\\', anychar)).map(Option::unwrap_or_default);
    delimited(char('"'), inside, char('"')).parse(input)
}

fn token(input: &str) -> IResult<&str, &str> {
    take_while1(|c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c)).parse(input)
}

fn comma(input: &str) -> IResult<&str, ()> {
    value((), delimited(blank, tag(","), blank)).parse(input)
}

fn blank(input: &str) -> IResult<&str, &str> {
    take_while(|c| c == ' ' || c == '\t').parse(input)
}

fn blank1(input: &str) -> IResult<&str, &str> {
    take_while1(|c| c == ' ' || c == '\t').parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn reads_challenges() {
        for (header, want) in [
            ("", None),
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Digest a=b, c=d", None),
            (
                "Bearer realm=\"https://auth.example/token\",service=\"reg\",scope=\"repository:a/b:pull,push\"",
                bearer("https://auth.example/token", Some("reg")),
            ),
            ("bearer Realm = \"https://a/\\\"b\" , error=\"invalid_token\"", bearer("https://a/\"b", None)),
            ("Bearer realm=\"\"", bearer("", None)),
            ("Basic realm=\"x\", Bearer realm=\"https://a\"", bearer("https://a", None)),
            ("Bearer scope=\"x\"", None),
            ("Bearer realm=\"unfinished", None),
        ] {
            assert_eq!(best([header].into_iter()), want, "{header}");
        }
        let many = "Bearer realm=\"https://a\", ".repeat(10_000);
        assert_eq!(best([many.as_str()].into_iter()), bearer("https://a", None));
    }
}
