use super::*;

fn mount(text: &str) -> Mount {
    parse_mount_constant(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn kinds_and_defaults() {
    let bind = mount("target=/m");
    assert_eq!((bind.kind, bind.read_only, bind.target.as_str()), (MountType::Bind, true, "/m"));
    assert!(!mount("target=/m,rw").read_only);
    assert!(!mount("target=/m,readwrite=true").read_only);
    assert!(!mount("target=/m,ro=false").read_only);
    let cache = mount("TYPE=Cache,Target=/a//b/,sharing=LOCKED,uid=1,gid=2,mode=0710");
    assert_eq!((cache.read_only, cache.sharing), (false, Some(Sharing::Locked)));
    assert_eq!((cache.uid, cache.gid, cache.mode), (Some(1), Some(2), Some(0o710)));
    assert_eq!(cache.effective_id(), "/a/b");
    assert!(mount("type=cache,target=/a,ro").read_only);
    assert_eq!(mount("type=tmpfs,target=/a,size=1.5k").size_bytes, 1536);
    assert_eq!(mount("type=ssh").effective_id(), "default");
    assert_eq!(mount("\"target=/a,b\",source=x").target, "/a,b");
}

#[test]
fn secrets() {
    for (text, id, target) in [
        ("type=secret,id=a/b", "a/b", Some("/run/secrets/b")),
        ("type=secret,target=/x/y", "y", Some("/x/y")),
        ("type=secret,id=t,env=T", "t", None),
        ("type=secret,id=t,env=T,dst=/z", "t", Some("/z")),
        ("type=secret,src=s", "s", Some("/run/secrets/s")),
    ] {
        let mount = mount(text);
        assert_eq!((mount.effective_id().as_str(), mount.secret_target().as_deref()), (id, target), "{text}");
    }
    assert!(mount("type=secret,id=x,required").required);
}

#[test]
fn values_are_expanded_one_by_one() {
    let mut expand = |value: &str| Ok(value.replace("$x", "a,b"));
    let mount = parse_mount("type=bind,source=$x,target=/t", &mut expand).unwrap();
    assert_eq!(mount.source, "a,b");
}

#[test]
fn faults() {
    for (text, word) in [
        ("", "csv"),
        ("\"a", "csv"),
        ("a\"b", "csv"),
        ("type=bnid", "did you mean `bind`"),
        ("type=bind,mode=0700", "mode"),
        ("type=tmpfs,uid=1", "uid"),
        ("type=cache,target=/m,size=1m", "size"),
        ("required,type=secret,id=x", "required"),
        ("type=secret", "one of id"),
        ("type=secret,id=a,src=b", "both"),
        ("type=secret,id=a,from=b", "from"),
        ("type=secret,id=a,sharing=shared", "sharing"),
        ("target=/a,sharing=shared", "sharing"),
        ("sharing=sharde", "did you mean `shared`"),
        ("taget=/x", "did you mean `target`"),
        ("target", "key=value"),
        ("ro=maybe", "ro"),
        ("type=cache,uid=x", "uid"),
        ("type=cache,mode=9", "mode"),
        ("from=$x", "variable"),
        ("type=tmpfs,size=many", "size"),
    ] {
        let error = parse_mount_constant(text).unwrap_err().to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}
