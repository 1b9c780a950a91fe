use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "X" | "SET" => "v",
        "EMPTY" => "",
        "A" => "a",
        "F" => "archive.tar.gz",
        "V" => "one.two.three",
        "R" => "release-1.2.3",
        "P" => "release-",
        "PORTS" => "80  443/udp",
        "LINES" => "ab\ncb",
        "ESC" => "a*b/c}d",
        _ => return None,
    };
    Some(value.to_owned())
}

fn value(text: &str) -> String {
    match expand(text, '\\', &lookup) {
        Ok(expanded) => expanded.text,
        Err(error) => format!("! {}", error.kind),
    }
}

#[test]
fn plain_variables() {
    for (text, expected) in [
        ("$X", "v"),
        ("a${X}b", "avb"),
        ("$NOPE.", "."),
        ("[$1x][$10x][$@][$#][$?][$$][${1:-d}]", "[x][x][][][][][d]"),
        ("5$ $.x a$/b a $ b", "5$ $.x a$/b a $ b"),
        ("$X$A$X", "vav"),
        ("$X_1|${X}_1", "|v_1"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn quotes_and_escapes() {
    for (text, expected) in [
        (r"a\tb", "atb"),
        (r#"\"q\""#, "\"q\""),
        (r"\$X \${X} \\$X", r"$X ${X} \v"),
        (r#""\$X" "\\$X" "a\"b" "a\tb" "it's""#, r#"$X \v a"b a\tb it's"#),
        (r"'$X' '\' '${X:-d'", r"$X \ ${X:-d"),
        (r#"pre"$X post"'$X end'fix"#, "prev post$X endfix"),
        ("a\\", "a"),
        ("''", ""),
        (r#""a"#, "! unexpected end of statement while looking for matching double-quote"),
        ("'a", "! unexpected end of statement while looking for matching single-quote"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    let backtick = |text| expand(text, '`', &lookup).unwrap().text;
    assert_eq!(backtick(r"c:\dir\new a`$b"), r"c:\dir\new a$b");
    assert_eq!(backtick("\"say `\"hi`\"\""), "say \"hi\"");
}

#[test]
fn operators() {
    for (text, expected) in [
        ("${SET-w}${EMPTY-w}${NOPE-w}", "vw"),
        ("${SET:-w}${EMPTY:-w}${NOPE:-w}", "vww"),
        ("${SET+w}|${SET:+w}|${EMPTY+w}|${EMPTY:+w}|${NOPE+w}|${NOPE:+w}", "w|w|w|||"),
        ("${NOPE:-$A} ${NOPE:-${NOPE2:-${A}z}} ${A:+<${A}>} ${EMPTY:-${A+x$A}y}", "a az <a> xay"),
        ("${NOPE:-'a b' \"$X\"}", "a b v"),
        ("${SET:?x}${SET?}", "vv"),
        ("${NOPE?}", "! NOPE: is not allowed to be unset"),
        ("${NOPE:?must be $X}", "! NOPE: must be v"),
        ("${EMPTY:?}", "! EMPTY: is not allowed to be empty"),
        ("${EMPTY?}", ""),
        ("${SET:-${NOPE:?inner}}", "! NOPE: inner"),
        ("${}", "! syntax error: bad substitution"),
        ("${:-x}", "! syntax error: bad substitution"),
        ("${{X}}", "! syntax error: bad substitution"),
        ("${X", "! syntax error: missing '}'"),
        ("${", "! syntax error: missing '}'"),
        ("${X:-word", "! syntax error: missing '}'"),
        ("${X:-'word}", "! syntax error: missing '}'"),
        ("${X:=y}", "! unsupported modifier (:=) in substitution"),
        ("${X:#y}", "! unsupported modifier (:#) in substitution"),
        ("${X y}", "! unsupported modifier ( ) in substitution"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn patterns() {
    for (text, expected) in [
        (
            "${F%.gz} ${F%.*} ${F%%.*} ${F%zip} ${F%.tar}",
            "archive.tar archive.tar archive archive.tar.gz archive.tar.gz",
        ),
        ("[${F%%*}] ${F%*}", "[] archive.tar.gz"),
        ("${F#*.} ${F##*.} ${F#arch} ${F#?} ${F##*}", "tar.gz gz ive.tar.gz rchive.tar.gz "),
        ("${R#$P} ${R#${P}1.} ${R%.${NOPE:-3}}", "1.2.3 2.3 release-1.2"),
        ("${V/./-} ${V//./-} ${V//./} ${V//x/y}", "one-two.three one-two-three onetwothree one.two.three"),
        ("${V/t*e/T} ${V//?e/E}", "one.T oE.two.thEe"),
        ("${V//*/x} ${EMPTY//*/x} ${X//v*/w}", "x x w"),
        ("${LINES#*b} ${LINES##*b} ${LINES//*b/x}", "\ncb \ncb x\nx"),
        (r"${ESC#a\*} ${ESC%\}d} ${ESC/b\/c/-} ${ESC//\}/+}", "b/c}d a*b/c a*-}d a*b/c+d"),
        (r"${X/v/\$0} ${X//v/[$$]} ${X//v/\$0}", r"\$0 [] \v"),
        (r"${X#\v}", r"! invalid pattern (\v) in substitution: invalid escape"),
        ("${X/v}", "! syntax error: missing '/' in ${}"),
        ("${X/v/w", "! syntax error: missing '}'"),
        ("${F%[a-z]z}", "archive.tar.gz"),
        ("${NOPE#x}${NOPE/x/y}", ""),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn words_split_after_expansion() {
    for (text, expected) in [
        ("$PORTS 8080", vec!["80", "443/udp", "8080"]),
        ("\"$PORTS\" '9 0'", vec!["80  443/udp", "9 0"]),
        ("$NOPE \"90\" ${NOPE:-91}/tcp", vec!["90", "91/tcp"]),
        ("a\\ b", vec!["a b"]),
        ("", vec![]),
        ("''", vec![]),
    ] {
        assert_eq!(expand_words(text, '\\', &lookup).unwrap().words, expected, "{text}");
    }
}

#[test]
fn variables_are_reported_with_their_place() {
    let text = "a$X${NOPE:-$A}";
    let variables = expand(text, '\\', &lookup).unwrap().variables;
    let seen: Vec<_> = variables.iter().map(|used| (used.name.as_str(), used.set, used.span.text(text))).collect();
    assert_eq!(seen, [("X", true, "$X"), ("A", true, "$A"), ("NOPE", false, "${NOPE:-$A}")]);
    let error = expand("$Q${NOPE:?}", '\\', &lookup).unwrap_err();
    assert_eq!(error.variables.len(), 2);
    assert_eq!(error.to_string(), "failed to process `$Q${NOPE:?}`: NOPE: is not allowed to be unset");
}

#[test]
fn heredoc_bodies_keep_quotes() {
    let body = "it's $X \\$X \"${NOPE:-d}\" back\\slash \\\\\n";
    assert_eq!(expand_heredoc(body, &lookup).unwrap().text, "it's v $X \"d\" backslash \\\n");
}

#[test]
fn growth_is_limited() {
    let big = |_: &str| Some("x".repeat(600_000));
    assert_eq!(expand("$a$a", '\\', &big).unwrap_err().kind, WordErrorKind::TooLarge);
    assert!(expand("$a", '\\', &big).is_ok());
    let deep = format!("{}{}", "${a:-".repeat(100_000), "}".repeat(100_000));
    assert_eq!(expand(&deep, '\\', &lookup).unwrap_err().kind, WordErrorKind::TooDeep);
    let many = |_: &str| Some("ab".repeat(100_000));
    assert!(expand("${a//?c/x}", '\\', &many).is_ok());
    let costly = format!("${{a//{}b/c}}", "?*".repeat(2000));
    assert_eq!(expand(&costly, '\\', &big).unwrap_err().kind, WordErrorKind::PatternTooCostly);
    // A replacement that comes to nothing is read at each match all the same.
    let empty = |name: &str| Some(if name == "a" { "x".repeat(20_000) } else { "$x".repeat(10_000) });
    assert_eq!(expand("${a//x/$b}", '\\', &empty).unwrap_err().kind, WordErrorKind::PatternTooCostly);
    // All patterns of a text together have the limit of one.
    let costly = "${a##*}".repeat(100);
    assert_eq!(expand(&costly, '\\', &big).unwrap_err().kind, WordErrorKind::PatternTooCostly);
}
