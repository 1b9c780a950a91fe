//! File modes of `--chmod`: octal (`755`) or symbolic (`u=rwX,go=rX`).
//!
//! Symbolic modes follow BSD's setmode, whose rules BuildKit has: clauses are applied from left to right, `g=u`
//! copies what the user class has at that moment, `X` gives execute where the target is a directory or had an
//! execute bit before the first clause, `s` counts for user and group, and `t` is ignored where only `o` is named.

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;
const EXECUTE: u32 = 0o111;
/// All bits that a clause without classes stands for.
const STANDARD: u32 = SET_UID | SET_GID | 0o777;

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid chmod parameter: `{0}`, it should be octal and between 0 and 07777, or symbolic as in `u=rwX,go=rX`")]
pub struct ChmodError(pub String);

/// A change of a mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChmodSpec {
    /// The mode itself, at most 0o7777.
    Octal(u32),
    /// Changes, in order.
    Symbolic(Vec<ModeChange>),
}

/// One step of a symbolic mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChange {
    /// Sets bits.
    Set(u32),
    /// Clears bits.
    Clear(u32),
    /// Sets bits if the target is a directory or had any execute bit at first.
    SetExecute(u32),
    /// Copies the three bits of a class to other classes.
    CopyClass {
        /// Shift of the class that is copied: 6 for user, 3 for group, 0 for others.
        from: u32,
        /// The bits that may change.
        mask: u32,
        /// What is done with them.
        operation: CopyOperation,
    },
}

/// How bits of another class are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyOperation {
    /// `+`: they are set too.
    Add,
    /// `-`: they are cleared.
    Remove,
    /// `=`: they take the place of what was there.
    Replace,
}

impl ChmodSpec {
    /// Reads a mode, after expansion.
    ///
    /// # Errors
    ///
    /// Fails for an octal mode above 07777 and for what is neither form.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        let error = || ChmodError(text.to_owned());
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| error())?;
            return if mode > 0o7777 { Err(error()) } else { Ok(Self::Octal(mode)) };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes).ok_or_else(error)?;
        }
        Ok(Self::Symbolic(changes))
    }

    /// The mode that a file or directory of the mode `mode` (its low twelve bits) gets.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let changes = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(changes) => changes,
        };
        let executable = is_dir || mode & EXECUTE != 0;
        changes.iter().fold(mode & 0o7777, |mode, change| match *change {
            ModeChange::Set(bits) => mode | bits,
            ModeChange::Clear(bits) => mode & !bits,
            ModeChange::SetExecute(bits) if executable => mode | bits,
            ModeChange::SetExecute(_) => mode,
            ModeChange::CopyClass { from, mask, operation } => {
                let class = mode >> from & 0o7;
                let bits = (class << 6 | class << 3 | class) & mask;
                match operation {
                    CopyOperation::Add => mode | bits,
                    CopyOperation::Remove => mode & !bits,
                    CopyOperation::Replace => mode & !mask | bits,
                }
            }
        })
    }
}

/// `[ugoa]*([-+=][rwxXstugo]*)+`
fn parse_clause(clause: &str, changes: &mut Vec<ModeChange>) -> Option<()> {
    let classes = clause.find(|ch| !matches!(ch, 'a' | 'u' | 'g' | 'o')).unwrap_or(clause.len());
    let who = clause[..classes].chars().fold(0, |who, class| {
        who | match class {
            'a' => STANDARD,
            'u' => SET_UID | USER,
            'g' => SET_GID | GROUP,
            _ => OTHER,
        }
    });
    let mut rest = &clause[classes..];
    if rest.is_empty() {
        return None;
    }
    while let Some(operator) = rest.chars().next() {
        if !matches!(operator, '+' | '-' | '=') {
            return None;
        }
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        parse_operation(who, operator, &rest[1..end], changes)?;
        rest = &rest[end..];
    }
    Some(())
}

fn parse_operation(who: u32, operator: char, letters: &str, changes: &mut Vec<ModeChange>) -> Option<()> {
    let only_others = who != 0 && who & !OTHER == 0;
    let mut allowed = if who == 0 { STANDARD } else { who };
    let (mut bits, mut execute) = (0, 0);
    let mut assigned = false;
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' if operator != '-' => execute = EXECUTE,
            'X' => {}
            's' if !only_others => bits |= SET_UID | SET_GID,
            't' if !only_others => {
                allowed |= STICKY;
                bits |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                let nothing_yet = assigned || bits == 0;
                flush(operator, allowed, &mut bits, &mut execute, nothing_yet, changes);
                assigned = true;
                let from = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let operation = match operator {
                    '+' => CopyOperation::Add,
                    '-' => CopyOperation::Remove,
                    _ => CopyOperation::Replace,
                };
                changes.push(ModeChange::CopyClass { from, mask: allowed & 0o777, operation });
            }
            _ => return None,
        }
    }
    flush(operator, allowed, &mut bits, &mut execute, assigned, changes);
    Some(())
}

/// Writes down what was read so far. `=` clears all that it may change, once.
fn flush(
    operator: char,
    allowed: u32,
    bits: &mut u32,
    execute: &mut u32,
    assigned: bool,
    changes: &mut Vec<ModeChange>,
) {
    match operator {
        '-' => changes.push(ModeChange::Clear(*bits & allowed)),
        '=' if !assigned || *bits != 0 => {
            changes.push(ModeChange::Clear(allowed));
            changes.push(ModeChange::Set(*bits & allowed));
        }
        '=' => {}
        _ => changes.push(ModeChange::Set(*bits & allowed)),
    }
    if *execute != 0 {
        changes.push(ModeChange::SetExecute(*execute & allowed));
    }
    (*bits, *execute) = (0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, before, is_dir, after) in [
            ("640", 0o777, false, 0o640),
            ("4755", 0, false, 0o4755),
            ("0", 0o777, true, 0),
            ("7", 0o777, true, 0o7),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u=rwX,go=rX", 0o777, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o754, false, 0o774),
            ("go=", 0o754, false, 0o700),
            ("a-w,o=g", 0o754, false, 0o555),
            ("u+s,g+s,o+t", 0o754, false, 0o6754),
            ("a=r", 0o754, false, 0o444),
            ("+t", 0o755, true, 0o1755),
            ("a+t", 0o755, true, 0o1755),
            ("u+x,go-r", 0o644, false, 0o700),
            ("u+r-w", 0o200, false, 0o400),
            ("+X", 0o640, false, 0o640),
            ("go=u-w", 0o755, false, 0o755),
            ("=r", 0o777, false, 0o444),
        ] {
            let spec = ChmodSpec::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(spec.apply(before, is_dir), after, "{text} on {before:o}: {spec:?}");
        }
    }

    #[test]
    fn faults() {
        for text in ["", "u+q", "10000", "8", "u", "u+r,", ",", "rwx", "0x7", "u~r", "99999999999999"] {
            assert!(ChmodSpec::parse(text).is_err(), "{text}");
        }
    }
}
