//! The grammar of references, on nom.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while_m_n, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, opt, recognize, verify};
use nom::multi::{many0_count, separated_list1};
use nom::sequence::{delimited, pair, preceded};
use nom::{IResult, Parser};

use super::{
    DEFAULT_REGISTRY, DEFAULT_TAG, OFFICIAL_PREFIX, REFERENCE_LENGTH_MAX, REPOSITORY_LENGTH_MAX, Reference,
    ReferenceErrorReason as Reason,
};

/// The name that Docker Hub had; it stays a synonym.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";

/// Reads a reference and completes it.
pub(super) fn parse(text: &str) -> Result<Reference, Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.len() > REFERENCE_LENGTH_MAX {
        return Err(Reason::TooLong);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(Reason::Scheme { scheme: scheme.to_owned() });
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(Reason::ImageId);
    }
    let (registry, remainder) = split_registry(text)?;
    let (name, digest) = match remainder.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse().map_err(Reason::Digest)?)),
        None => (remainder, None),
    };
    let (path, tag) = match name.split_once(':') {
        Some((path, text)) => (path, Some(parse_tag(text)?)),
        None => (name, None),
    };
    check_repository(path)?;
    let official = registry == DEFAULT_REGISTRY && !path.contains('/');
    let repository = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
    if repository.len() > REPOSITORY_LENGTH_MAX {
        return Err(Reason::RepositoryTooLong);
    }
    let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// Whether what stands before the first slash is a registry: it has a dot or a colon, is `localhost`, or has an
/// upper-case letter, which no repository may have.
pub(super) fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// Splits off the registry, if what stands before the first slash is one.
fn split_registry(text: &str) -> Result<(&str, &str), Reason> {
    let Some((first, rest)) = text.split_once('/') else { return Ok((DEFAULT_REGISTRY, text)) };
    if !is_host(first) {
        return Ok((DEFAULT_REGISTRY, text));
    }
    if first.contains('@') {
        return Err(Reason::Credentials);
    }
    if all_consuming(host_and_port).parse(first).is_err() {
        return Err(Reason::Registry { registry: first.to_owned() });
    }
    Ok((if first == OLD_DEFAULT_REGISTRY { DEFAULT_REGISTRY } else { first }, rest))
}

fn check_repository(path: &str) -> Result<(), Reason> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Reason::UpperCase { repository: path.to_owned() });
    }
    for part in path.split('/') {
        if all_consuming(component).parse(part).is_err() {
            return Err(Reason::Component { component: part.to_owned() });
        }
    }
    Ok(())
}

fn parse_tag(text: &str) -> Result<String, Reason> {
    match all_consuming(tag_name).parse(text) {
        Ok((_, tag)) => Ok(tag.to_owned()),
        Err(_) => Err(Reason::Tag { tag: text.to_owned() }),
    }
}

fn host_and_port(input: &str) -> IResult<&str, &str> {
    let port = preceded(char(':'), digit1);
    recognize(pair(alt((ipv6, host_name)), opt(port))).parse(input)
}

fn ipv6(input: &str) -> IResult<&str, &str> {
    let address = take_while1(|c: char| c.is_ascii_hexdigit() || c == ':');
    recognize(delimited(char('['), address, char(']'))).parse(input)
}

fn host_name(input: &str) -> IResult<&str, &str> {
    recognize(separated_list1(char('.'), host_label)).parse(input)
}

fn host_label(input: &str) -> IResult<&str, &str> {
    let label = take_while1(|c: char| c.is_ascii_alphanumeric() || c == '-');
    verify(label, |label: &str| !label.starts_with('-') && !label.ends_with('-')).parse(input)
}

fn component(input: &str) -> IResult<&str, &str> {
    recognize(pair(alphanumeric, many0_count(pair(separator, alphanumeric)))).parse(input)
}

fn alphanumeric(input: &str) -> IResult<&str, &str> {
    take_while1(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).parse(input)
}

fn separator(input: &str) -> IResult<&str, &str> {
    alt((tag("."), tag("__"), tag("_"), take_while1(|c| c == '-'))).parse(input)
}

fn tag_name(input: &str) -> IResult<&str, &str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = take_while_m_n(1, 1, word);
    let rest = verify(take_while(move |c| word(c) || c == '.' || c == '-'), |rest: &str| rest.len() <= 127);
    recognize(pair(first, rest)).parse(input)
}
