//! Users and groups by the tree's own `/etc/passwd` and `/etc/group`.
//!
//! The files are read as plain text, never by the host's name service. What a line lacks counts as 0 or empty.

use super::{TreeError, TreeView, read_small};

/// The most that is read of `/etc/passwd` and `/etc/group`, in bytes; BuildKit's limit too.
const LARGEST_FILE: u64 = 10 << 20;

/// A user could not be looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The tree's user or group file can't be read.
    #[error("could not read the users and groups of the root file system")]
    Read {
        /// Why.
        source: TreeError,
    },
    /// `/etc/passwd` has no such name.
    #[error("unable to find user `{name}`: no matching entry in `/etc/passwd`")]
    UnknownUser {
        /// The name.
        name: String,
    },
    /// `/etc/group` has no such name.
    #[error("unable to find group `{name}`: no matching entry in `/etc/group`")]
    UnknownGroup {
        /// The name.
        name: String,
    },
    /// A number is larger than a user or group id may be.
    #[error("`{id}` is no user or group id: the largest is 2147483647")]
    IdTooLarge {
        /// The number, as written.
        id: String,
    },
}

/// As whom a command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// All groups, sorted: the primary one, and where no group was named those that list the user.
    pub groups: Vec<u32>,
    /// The home directory of `/etc/passwd`; `None` where the user has no entry there or an empty one.
    pub home: Option<Vec<u8>>,
}

/// Who owns copied files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChownOwner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The user name that `/etc/passwd` does not have; root was taken for it.
    pub unknown_user: Option<String>,
    /// The group name that `/etc/group` does not have; the user's own group was taken for it.
    pub unknown_group: Option<String>,
}

/// Looks up the user of `USER` or `RUN`: `name|uid[:group|gid]`, or nothing for root.
///
/// A number is an id, also where an entry has it as its name, and needs no entry; its group is then 0. Without a
/// group, the user gets the primary group of its entry and all groups that list it; with one, that group only. The primary
/// group is always among the groups too, so that a file with fewer rights for it can't be reached around it.
///
/// # Errors
/// When a name is unknown, a number too large, or the files can't be read.
pub fn lookup_user(view: &dyn TreeView, spec: &str) -> Result<User, AccountError> {
    let (user, group) = split(if spec.is_empty() { "0" } else { spec });
    let passwd = read(view, "etc/passwd")?;
    let mut accounts = passwd_entries(&passwd);
    let (uid, account) = match parse_id(user)? {
        Some(uid) => (uid, accounts.find(|account| account.uid == uid)),
        None if user.is_empty() => (0, accounts.find(|account| account.uid == 0)),
        None => {
            let account = accounts.find(|account| account.name == user.as_bytes());
            let account = account.ok_or_else(|| AccountError::UnknownUser { name: user.to_owned() })?;
            (account.uid, Some(account))
        }
    };
    let home = account.as_ref().map(|account| account.home.to_vec()).filter(|home| !home.is_empty());
    let group_file = read(view, "etc/group")?;
    let Some(group) = group.filter(|group| !group.is_empty()) else {
        let name = account.as_ref().map(|account| account.name);
        let mut groups: Vec<u32> = group_entries(&group_file)
            .filter(|group| name.is_some_and(|name| group.members.split(|&b| b == b',').any(|member| member == name)))
            .map(|group| group.gid)
            .collect();
        let gid = account.map_or(0, |account| account.gid);
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        return Ok(User { uid, gid, groups, home });
    };
    let gid = match parse_id(group)? {
        Some(gid) => gid,
        None => find_group(&group_file, group).ok_or_else(|| AccountError::UnknownGroup { name: group.to_owned() })?,
    };
    Ok(User { uid, gid, groups: vec![gid], home })
}

/// Looks up the owner of `COPY --chown` and `ADD --chown`: `[name|uid][:group|gid]`.
///
/// A number alone is user and group; a name alone brings its primary group; an empty name behind or before the colon is 0.
///
/// COMPAT(buildkit): an unknown user name stands for root, and an unknown group name for the user's own group.
///
/// # Errors
/// When the files can't be read.
pub fn lookup_chown(view: &dyn TreeView, spec: &str) -> Result<ChownOwner, AccountError> {
    let (user, group) = split(spec);
    let mut owner = ChownOwner::default();
    match chown_id(user) {
        Some(id) => (owner.uid, owner.gid) = (id, id),
        None => {
            let passwd = read(view, "etc/passwd")?;
            match passwd_entries(&passwd).find(|account| account.name == user.as_bytes()) {
                Some(account) => (owner.uid, owner.gid) = (account.uid, account.gid),
                None => owner.unknown_user = Some(user.to_owned()),
            }
        }
    }
    let Some(group) = group else { return Ok(owner) };
    match chown_id(group) {
        Some(gid) => owner.gid = gid,
        None => match find_group(&read(view, "etc/group")?, group) {
            Some(gid) => owner.gid = gid,
            None => owner.unknown_group = Some(group.to_owned()),
        },
    }
    Ok(owner)
}

/// Whether an owner as `--chown` has it holds a name that only `/etc/passwd` or `/etc/group` can tell the id of.
#[must_use]
pub fn chown_needs_accounts(spec: &str) -> bool {
    let (user, group) = split(spec);
    [Some(user), group].into_iter().flatten().any(|part| chown_id(part).is_none())
}

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

fn passwd_entries(file: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let (name, _) = (fields.next()?, fields.next());
        let (uid, gid) = (number(fields.next()), number(fields.next()));
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn group_entries(file: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let (name, _) = (fields.next()?, fields.next());
        Some(GroupEntry { name, gid: number(fields.next()), members: fields.next().unwrap_or_default() })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty() && line[0] != b'#')
}

fn find_group(file: &[u8], name: &str) -> Option<u32> {
    group_entries(file).find(|group| group.name == name.as_bytes()).map(|group| group.gid)
}

fn split(spec: &str) -> (&str, Option<&str>) {
    spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)))
}

/// COMPAT(buildkit): a field that is missing or no number counts as 0.
fn number(field: Option<&[u8]>) -> u32 {
    field.and_then(|field| std::str::from_utf8(field).ok()).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The id that a text of digits stands for; `None` for any other text.
fn parse_id(text: &str) -> Result<Option<u32>, AccountError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    text.parse::<i32>().map(|id| Some(id.cast_unsigned())).map_err(|_| AccountError::IdTooLarge { id: text.to_owned() })
}

/// The id that a part of `--chown` stands for by itself; `None` for what is a name.
///
/// COMPAT(buildkit): `root` is 0 whatever the files say; a number may have a sign, and one that 32 bits can't hold is a name.
fn chown_id(text: &str) -> Option<u32> {
    match text {
        "" | "root" => Some(0),
        // -1 means "leave as it is" to the kernel, and what is copied is root's at first.
        _ => text.parse::<i32>().ok().map(|id| if id == -1 { 0 } else { id.cast_unsigned() }),
    }
}

fn read(view: &dyn TreeView, path: &str) -> Result<Vec<u8>, AccountError> {
    match read_small(view, path.as_bytes(), LARGEST_FILE) {
        Ok(bytes) => Ok(bytes.unwrap_or_default()),
        Err(source) => Err(AccountError::Read { source }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::merged::tests::{file, merged};
    use super::*;
    use crate::tree::MergedTree;

    fn view() -> MergedTree {
        merged(&[&[
            file(
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\n\nbad:x:nine:9::/:\n\
                 app:x:1000:1001:app:/home/app:/bin/sh\n1234:x:55:66::/:/bin/sh\nbare:x:7:8\n",
            ),
            file("etc/group", "root:x:0:\nstaff:x:50:other,app\nwheel:x:10:root,app\napple:x:11:apples\n"),
        ]])
    }

    #[test]
    fn users() {
        let user = |uid, gid, groups: &[u32], home: Option<&str>| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(|home| home.as_bytes().to_vec()),
        };
        for (spec, want) in [
            ("", user(0, 0, &[0, 10], Some("/root"))),
            ("root", user(0, 0, &[0, 10], Some("/root"))),
            ("app", user(1000, 1001, &[10, 50, 1001], Some("/home/app"))),
            ("1000", user(1000, 1001, &[10, 50, 1001], Some("/home/app"))),
            ("app:", user(1000, 1001, &[10, 50, 1001], Some("/home/app"))),
            ("app:staff", user(1000, 50, &[50], Some("/home/app"))),
            ("app:77", user(1000, 77, &[77], Some("/home/app"))),
            ("4321", user(4321, 0, &[0], None)),
            ("4321:staff", user(4321, 50, &[50], None)),
            ("1234", user(1234, 0, &[0], None)),
            ("bare", user(7, 8, &[8], None)),
        ] {
            assert_eq!(lookup_user(&view(), spec).unwrap(), want, "{spec}");
        }
        assert!(matches!(lookup_user(&view(), "ghost"), Err(AccountError::UnknownUser { .. })));
        assert_eq!(lookup_user(&view(), "bad").unwrap(), user(0, 9, &[9], Some("/")));
        assert_eq!(lookup_user(&view(), "broken").unwrap(), user(0, 0, &[0], None));
        assert!(matches!(lookup_user(&view(), "app:ghost"), Err(AccountError::UnknownGroup { .. })));
        assert!(matches!(lookup_user(&view(), "2147483648"), Err(AccountError::IdTooLarge { .. })));
        assert_eq!(lookup_user(&merged(&[]), "5:6").unwrap(), user(5, 6, &[6], None));
        assert!(lookup_user(&merged(&[]), "app").is_err());
    }

    #[test]
    fn owners() {
        for (spec, uid, gid, unknown_user, unknown_group) in [
            ("app", 1000, 1001, None, None),
            ("app:staff", 1000, 50, None, None),
            ("app:77", 1000, 77, None, None),
            ("77:staff", 77, 50, None, None),
            ("1000", 1000, 1000, None, None),
            (":staff", 0, 50, None, None),
            ("5:", 5, 0, None, None),
            ("app:", 1000, 0, None, None),
            (":", 0, 0, None, None),
            ("+5:-6", 5, u32::MAX - 5, None, None),
            ("-1", 0, 0, None, None),
            ("2147483647:2147483648", 2_147_483_647, 2_147_483_647, None, Some("2147483648")),
            ("4294967294:1", 0, 1, Some("4294967294"), None),
            ("ghost", 0, 0, Some("ghost"), None),
            ("ghost:staff", 0, 50, Some("ghost"), None),
            ("app:none", 1000, 1001, None, Some("none")),
        ] {
            let want = ChownOwner {
                uid,
                gid,
                unknown_user: unknown_user.map(str::to_owned),
                unknown_group: unknown_group.map(str::to_owned),
            };
            assert_eq!(lookup_chown(&view(), spec).unwrap(), want, "{spec}");
        }
        assert_eq!(lookup_chown(&merged(&[]), "app").unwrap().unknown_user.as_deref(), Some("app"));
        for (spec, needed) in [("app", true), ("5:staff", true), ("root:6", false), (":", false), ("-5", false)] {
            assert_eq!(chown_needs_accounts(spec), needed, "{spec}");
        }
    }
}
