use super::*;

fn parse(text: &str) -> Result<GitSource, GitSourceError> {
    GitSource::parse(text, Place::Context).map(|source| source.expect(text))
}

#[test]
fn reads_fragments_and_queries() {
    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";
    for (text, remote, reference, subdir) in [
        ("https://e.com/a.git", "https://e.com/a.git", None, ""),
        ("https://e.com/a.git#main", "https://e.com/a.git", Some("main"), ""),
        ("https://e.com/a.git#feat/x:dir/sub/", "https://e.com/a.git", Some("feat/x"), "dir/sub"),
        ("https://e.com/a.git#:./dir//sub", "https://e.com/a.git", None, "dir/sub"),
        ("https://e.com/a.git#", "https://e.com/a.git", None, ""),
        ("https://e.com/a.git#a%2Fb", "https://e.com/a.git", Some("a/b"), ""),
        ("https://e.com/a.git?ref=v1&subdir=/x", "https://e.com/a.git", Some("v1"), "x"),
        ("https://e.com/a.git?tag=v1", "https://e.com/a.git", Some("refs/tags/v1"), ""),
        ("https://e.com/a.git?branch=refs/heads/b", "https://e.com/a.git", Some("refs/heads/b"), ""),
        ("https://e.com/a.git?ref=v1#v1:d", "https://e.com/a.git", Some("v1"), "d"),
        ("github.com/o/r#refs/pull/7/head", "https://github.com/o/r", Some("refs/pull/7/head"), ""),
        ("git@github.com:o/r.git#v1:d", "git@github.com:o/r.git", Some("v1"), "d"),
        ("git@github.com:o/r.git?tag=v1", "git@github.com:o/r.git", Some("refs/tags/v1"), ""),
        ("ssh://git@e.com:2222/o/r", "ssh://git@e.com:2222/o/r", None, ""),
        ("git://e.com/o/r#x", "git://e.com/o/r", Some("x"), ""),
        ("https://e.com/a.git?checksum=0123456789abcdef0123456789abcdef01234567", "https://e.com/a.git", Some(SHA), ""),
    ] {
        let source = parse(text).unwrap();
        let got = (source.remote.as_str(), source.reference.as_deref(), source.subdir.as_str());
        assert_eq!(got, (remote, reference, subdir), "{text}");
    }
}

#[test]
fn reads_flags() {
    let source = parse("https://e.com/a.git?keep-git-dir&submodules=false&mtime=commit&fetch-by-commit=1").unwrap();
    assert_eq!((source.keep_git_dir, source.submodules), (Some(true), Some(false)));
    assert_eq!((source.mtime, source.fetch_by_commit), (Some(MtimeOf::Commit), Some(true)));
    let source = parse("https://e.com/a.git?ref=v1&commit=0123456#v1").unwrap();
    assert_eq!((source.reference.as_deref(), source.checksum.as_deref()), (Some("v1"), Some("0123456")));
}

#[test]
fn refuses_and_says_why() {
    for (query, want) in [
        ("?foo=1", "no property `foo`"),
        ("?ref=", "has no value"),
        ("?ref=a&ref=b", "given twice"),
        ("?tag=a&branch=b", "as `refs/tags/a` and as `refs/heads/b`"),
        ("?ref=a#b", "as `b` and as `a`"),
        ("?tag=a#a", "as `a` and as `refs/tags/a`"),
        ("?subdir=a#:b", "as `b` and as `a`"),
        ("?checksum=0123456&commit=0123457", "as `0123456` and as `0123457`"),
        ("?submodules=maybe", "neither true nor false"),
        ("?mtime=now", "neither `checkout` nor `commit`"),
        ("?checksum=xyz", "is not a commit"),
        ("#--upload-pack=touch", "is not the name of a branch"),
        ("#-bx", "is not the name of a branch"),
        ("?ref=-x", "is not the name of a branch"),
        ("#a..b", "is not the name"),
        ("#a%0Ab", "is not the name"),
        ("#a b", "is not the name"),
        ("#a@{1}", "is not the name"),
        ("#refs/heads/../../x", "is not the name"),
        ("#x.lock", "is not the name"),
        ("#:../..", "is not a folder inside"),
        ("#:a/../../b", "is not a folder inside"),
        ("#:.git/hooks", "is not a folder inside"),
    ] {
        let error = parse(&format!("https://e.com/a.git{query}")).expect_err(query).to_string();
        assert!(error.contains(want), "{query}: {error}");
    }
    for text in [
        "ssh://-oProxyCommand=x/a",
        "ssh://user:secret@e.com/a",
        "ssh://e.com",
        "ssh://e.com/",
        "git@-e.com:a",
        "git@e.com:-a",
        "git@e.com:",
        "git://u@e.com/a",
        "ssh://git@e.com/-a",
        "ssh://e.com/a\nb",
        "https://e .com/a.git",
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn hides_credentials() {
    let source = parse("https://user:s3cret@e.com/a.git#main").unwrap();
    assert_eq!(source.remote, "https://e.com/a.git");
    assert_eq!(
        source.credentials.as_ref().map(|(user, password)| (&**user, password.expose())),
        Some(("user", "s3cret"))
    );
    assert!(!format!("{source} {source:?}").contains("s3cret"));
}
