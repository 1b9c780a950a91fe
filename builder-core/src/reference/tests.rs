use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn completes_names() {
    for (text, full, familiar) in [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:v1", "localhost:5000/x:v1", "localhost:5000/x:v1"),
        ("Foo/x", "Foo/x:latest", "Foo/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("[2001:db8::1]/x", "[2001:db8::1]/x:latest", "[2001:db8::1]/x:latest"),
        (
            "example.com/a__b/c.d/e---f/g_h:T_1.2-x",
            "example.com/a__b/c.d/e---f/g_h:T_1.2-x",
            "example.com/a__b/c.d/e---f/g_h:T_1.2-x",
        ),
        ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ("docker.io/localhost/c", "docker.io/localhost/c:latest", "docker.io/localhost/c:latest"),
        ("docker.io/library/a.b", "docker.io/library/a.b:latest", "a.b:latest"),
        ("a.b:123", "docker.io/library/a.b:123", "a.b:123"),
    ] {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(reference.to_string(), full, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text}");
        assert_eq!(familiar.parse::<Reference>().unwrap(), reference, "{text}");
    }
}

#[test]
fn keeps_tag_and_digest() {
    let reference = Reference::parse(&format!("debian:12@{DIGEST}")).unwrap();
    assert_eq!(reference.tag(), Some("12"));
    assert_eq!(reference.digest().map(|d| d.to_string()).as_deref(), Some(DIGEST));
    assert_eq!(reference.familiar(), format!("debian:12@{DIGEST}"));
    let pinned = Reference::parse(&format!("debian@{DIGEST}")).unwrap();
    assert_eq!(pinned.tag(), None);
    assert_eq!(pinned.without_digest().to_string(), "docker.io/library/debian:latest");
    assert_eq!(
        Reference::parse("debian").unwrap().with_digest(Digest::of(b"")).familiar(),
        format!("debian:latest@{DIGEST}")
    );
}

#[test]
fn refuses_and_says_why() {
    let long = "a".repeat(256);
    let long_tag = format!("x:{}", "a".repeat(129));
    let twice = format!("x@{DIGEST}@{DIGEST}");
    for (text, want) in [
        ("", "it is empty"),
        ("Debian", "must be lower-case"),
        ("docker.io/Lib/x", "must be lower-case"),
        ("https://example.com/x", "leave out the `https://`"),
        ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "image ID"),
        ("user:secret@example.com/x", "log in to the registry"),
        ("example.com//x", "`` is not a part"),
        ("example.com/../x", "`..` is not a part"),
        ("example.com/", "`` is not a part"),
        ("/x", "`` is not a part"),
        ("x/", "`` is not a part"),
        ("x___y", "`x___y` is not a part"),
        ("x..y", "`x..y` is not a part"),
        ("-x", "`-x` is not a part"),
        ("x-", "`x-` is not a part"),
        ("aä", "is not a part"),
        ("a b", "is not a part"),
        ("-foo.com/x", "is not a host"),
        ("foo-.com/x", "is not a host"),
        ("foo.com:/x", "is not a host"),
        ("foo.com:abc/x", "is not a host"),
        ("::1/x", "is not a host"),
        ("[fe80::1%25eth0]:80/x", "is not a host"),
        ("[::1/x", "is not a host"),
        ("x:", "`` is not a tag"),
        ("x:-a", "is not a tag"),
        ("x:a b", "is not a tag"),
        ("x:1:2", "is not a tag"),
        (&long_tag, "is not a tag"),
        ("x@sha256:12", "is not a digest"),
        ("x@md5:d41d8cd98f00b204e9800998ecf8427e", "only sha256"),
        ("x@sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", "lower-case hexadecimal"),
        (&twice, "is not a digest"),
        (&long, "longer than 255"),
    ] {
        let error = Reference::parse(text).expect_err(text).to_string();
        assert!(error.contains(want), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(Reference::parse(&"a/".repeat(3000)).is_err());
    assert!(!Reference::parse("https://user:secret@example.com/x").unwrap_err().to_string().contains("secret"));
}
