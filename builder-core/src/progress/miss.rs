//! Why a step had no earlier result to use: data for programs, and one line of text.
//!
//! Values of secrets are in no cause, nor are those of variables whose names say that they are credentials.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many causes a line of text names before it only counts the rest.
const NAMED_CAUSES: usize = 3;

/// How many files a cause holds; of the others it knows the number.
pub const NAMED_FILES: usize = 10;

/// How many files of one cause a line of text names.
const SHOWN_FILES: usize = 3;

/// The longest value that a line of text shows whole, in characters.
const SHOWN_LENGTH: usize = 60;

/// All causes of a miss, the most telling first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Miss {
    /// The causes; never empty.
    pub causes: Vec<MissCause>,
}

/// One thing that is not as it was when the step was last done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MissCause {
    /// No earlier build had this step.
    NeverBuilt,
    /// The step was done with the same inputs, and its result is no longer in the store.
    RecordGone,
    /// The step was begun with the same inputs, and failed or was stopped.
    NotFinished,
    /// The caller wants the step done anew.
    NoCache,
    /// The instruction reads otherwise.
    Instruction {
        /// Its text before, variables not expanded; empty where that is not known.
        before: String,
        /// Its text now.
        now: String,
    },
    /// The body of a heredoc differs.
    Heredoc {
        /// The heredoc's name.
        name: String,
        /// The first line that differs, counted from 1.
        line: usize,
        /// That line before; `None` where the body had ended.
        before: Option<String>,
        /// That line now; `None` where the body has ended.
        now: Option<String>,
    },
    /// A variable that the step sees has another value.
    Variable {
        /// Which instruction set it.
        kind: VariableKind,
        /// Its name.
        name: String,
        /// Its value before; `None` where it was not set, or is not to be shown.
        before: Option<String>,
        /// Its value now; `None` where it is not set, or is not to be shown.
        now: Option<String>,
        /// Whether its values are not to be shown.
        hidden: bool,
    },
    /// The base image has other layers.
    BaseImage {
        /// The chain ID of its layers before; `None` for no layers.
        before: Option<String>,
        /// The chain ID of its layers now.
        now: Option<String>,
    },
    /// A step before it gave another result.
    EarlierStep,
    /// Something that the step is done with differs: its user, its working directory, the platform.
    Setting {
        /// What it is.
        name: String,
        /// Its value before.
        before: Option<String>,
        /// Its value now.
        now: Option<String>,
    },
    /// Files that the step takes differ.
    Files {
        /// The target of the mount that shows them; `None` for files that are copied.
        mount: Option<String>,
        /// What differs.
        change: FileChange,
        /// The files, at most [`NAMED_FILES`].
        files: Vec<ChangedFile>,
        /// How many there are.
        count: usize,
    },
    /// A mount is made otherwise, or shows something else.
    Mount {
        /// Its kind and its target.
        mount: String,
    },
}

/// Which instruction set a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VariableKind {
    /// A build argument.
    Arg,
    /// A variable of the image.
    Env,
}

/// What differs in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// Its bytes.
    Content,
    /// It has another name, and the same content.
    Renamed,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its permissions.
    Mode,
    /// Its user or group.
    Owner,
    /// Its extended attributes.
    Xattr,
    /// What it is: a file, a directory, a link and where that leads to.
    Kind,
    /// Something in them that was not recorded one by one.
    Unknown,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// Its path in the build context, the stage or the image.
    pub path: String,
    /// What was there before: a name, a mode, an owner; `None` where the change says all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    /// What is there now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub now: Option<String>,
}

impl From<MissCause> for Miss {
    fn from(cause: MissCause) -> Self {
        Self { causes: vec![cause] }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, cause) in self.causes.iter().take(NAMED_CAUSES).enumerate() {
            write!(f, "{}{cause}", if number > 0 { "; " } else { "" })?;
        }
        match self.causes.len().saturating_sub(NAMED_CAUSES) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl fmt::Display for MissCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("never built"),
            Self::RecordGone => f.write_str("the earlier result is gone from the store"),
            Self::NotFinished => f.write_str("it was not finished the last time"),
            Self::NoCache => f.write_str("--no-cache"),
            Self::Instruction { before, .. } if before.is_empty() => f.write_str("the instruction changed"),
            Self::Instruction { before, now } => {
                let (before, now) = around_difference(before, now);
                write!(f, "the instruction changed: `{before}` -> `{now}`")
            }
            Self::Heredoc { name, line, before, now } => {
                write!(f, "line {line} of the heredoc `{name}` changed")?;
                change(f, before.as_deref(), now.as_deref(), "the end")
            }
            Self::Variable { kind, name, before, now, hidden } => {
                let kind = match kind {
                    VariableKind::Arg => "ARG",
                    VariableKind::Env => "ENV",
                };
                write!(f, "{kind} {name} changed")?;
                if *hidden {
                    return f.write_str(" (its value is not shown)");
                }
                change(f, before.as_deref(), now.as_deref(), "unset")
            }
            Self::BaseImage { before, now } => {
                let short = |digest: &Option<String>| digest.as_ref().map(|d| d.chars().take(19).collect::<String>());
                f.write_str("the base image changed")?;
                change(f, short(before).as_deref(), short(now).as_deref(), "no layers")
            }
            Self::EarlierStep => f.write_str("an earlier step gave another result"),
            Self::Setting { name, before, now } => {
                write!(f, "{name} changed")?;
                change(f, before.as_deref(), now.as_deref(), "unset")
            }
            Self::Files { mount, change, files, count } => show_files(f, mount.as_deref(), *change, files, *count),
            Self::Mount { mount } => write!(f, "the mount {mount} changed"),
        }
    }
}

fn change(f: &mut fmt::Formatter<'_>, before: Option<&str>, now: Option<&str>, none: &str) -> fmt::Result {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => {
            let (before, now) = around_difference(before, now);
            (format!("`{before}`"), format!("`{now}`"))
        }
        (before, now) => {
            let shown = |value: Option<&str>| value.map_or_else(|| none.to_owned(), |v| format!("`{}`", cut(v, 0)));
            (shown(before), shown(now))
        }
    };
    write!(f, ": {before} -> {now}")
}

fn show_files(
    f: &mut fmt::Formatter<'_>,
    mount: Option<&str>,
    change: FileChange,
    files: &[ChangedFile],
    count: usize,
) -> fmt::Result {
    let what = match change {
        FileChange::Content => "content of ",
        FileChange::Mode => "mode of ",
        FileChange::Owner => "owner of ",
        FileChange::Xattr => "extended attributes of ",
        FileChange::Kind => "kind of ",
        FileChange::Renamed => "renamed: ",
        FileChange::Added => "added: ",
        FileChange::Removed => "removed: ",
        FileChange::Unknown => "the files changed",
    };
    f.write_str(what)?;
    for (number, file) in files.iter().take(SHOWN_FILES).enumerate() {
        f.write_str(if number > 0 { ", " } else { "" })?;
        match (change, &file.before, &file.now) {
            (FileChange::Renamed, Some(before), _) => write!(f, "`{before}` -> `{}`", file.path)?,
            (_, Some(before), Some(now)) => write!(f, "`{}` {before} -> {now}", file.path)?,
            _ => write!(f, "`{}`", file.path)?,
        }
    }
    match count.saturating_sub(files.len().min(SHOWN_FILES)) {
        0 => {}
        more if files.is_empty() => write!(f, " ({more})")?,
        more => write!(f, " and {more} more")?,
    }
    mount.map_or(Ok(()), |target| write!(f, " (mounted at {target})"))
}

/// Cuts two texts so that the place where they differ is seen.
fn around_difference(before: &str, now: &str) -> (String, String) {
    let same = before.chars().zip(now.chars()).take_while(|(a, b)| a == b).count();
    let long = before.chars().count().max(now.chars().count()) > SHOWN_LENGTH;
    let from = if long { same.saturating_sub(SHOWN_LENGTH / 3) } else { 0 };
    (cut(before, from), cut(now, from))
}

fn cut(text: &str, from: usize) -> String {
    let rest: Vec<char> = text.chars().skip(from).collect();
    let mut shown: String = if from > 0 { "…".to_owned() } else { String::new() };
    shown.extend(rest.iter().take(SHOWN_LENGTH));
    if rest.len() > SHOWN_LENGTH {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(change: FileChange, paths: &[&str], count: usize) -> MissCause {
        let files = paths.iter().map(|path| ChangedFile { path: (*path).to_owned(), before: None, now: None });
        MissCause::Files { mount: None, change, files: files.collect(), count }
    }

    #[test]
    fn texts_name_the_first_and_count_the_rest() {
        let text = |causes: Vec<MissCause>| Miss { causes }.to_string();
        assert_eq!(
            text(vec![files(FileChange::Content, &["a", "b", "c", "d"], 15)]),
            "content of `a`, `b`, `c` and 12 more"
        );
        assert_eq!(
            text(vec![files(FileChange::Added, &["a"], 1), MissCause::EarlierStep]),
            "added: `a`; an earlier step gave another result"
        );
        assert_eq!(text(vec![MissCause::NoCache; 5]), "--no-cache; --no-cache; --no-cache; and 2 more");
        assert_eq!(text(vec![files(FileChange::Unknown, &[], 0)]), "the files changed");
    }

    #[test]
    fn long_values_are_cut_around_the_difference() {
        let (before, now) = (format!("{}x{}", "a".repeat(500), "b".repeat(500)), format!("{}y", "a".repeat(500)));
        let text = MissCause::Instruction { before, now }.to_string();
        assert!(text.contains("aaax") || text.contains("ax"), "{text}");
        assert!(text.contains("ay`") && text.chars().count() < 200, "{text}");
    }

    #[test]
    fn hidden_values_stay_hidden() {
        let cause = MissCause::Variable {
            kind: VariableKind::Arg,
            name: "API_TOKEN".to_owned(),
            before: None,
            now: None,
            hidden: true,
        };
        assert_eq!(cause.to_string(), "ARG API_TOKEN changed (its value is not shown)");
    }

    #[test]
    fn causes_survive_json() {
        let causes = vec![
            MissCause::NeverBuilt,
            files(FileChange::Renamed, &["a"], 1),
            MissCause::Heredoc { name: "EOF".to_owned(), line: 2, before: Some("a".to_owned()), now: None },
        ];
        let json = serde_json::to_string(&Miss { causes: causes.clone() }).unwrap();
        assert!(json.starts_with(r#"[{"cause":"never-built"}"#), "{json}");
        assert_eq!(serde_json::from_str::<Miss>(&json).unwrap().causes, causes);
    }
}
