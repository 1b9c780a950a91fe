//! The modes that `--chmod` takes: octal ones, and symbolic ones such as `u=rwX,go=rX`.
//!
//! Symbolic modes follow BSD's `setmode`, as BuildKit does. No umask has a part in them.

/// A text is no mode.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("invalid chmod mode `{text}`: {reason}")]
pub struct ModeError {
    text: String,
    reason: &'static str,
}

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// All bits are set to these.
    Octal(u32),
    /// Bits are changed one clause after the other.
    Symbolic(SymbolicMode),
}

/// The clauses of a symbolic mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolicMode(Vec<Command>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    Set(u32),
    Clear(u32),
    /// Sets execute bits of directories and of files that had one to begin with.
    SetIfExecutable(u32),
    /// Copies the bits of one class (by its shift) to others.
    Copy {
        from: u32,
        to: Vec<u32>,
        operator: char,
    },
}

const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;

impl ModeChange {
    /// Reads a mode.
    ///
    /// # Errors
    /// When it is neither an octal number up to 7777 nor a symbolic mode.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let error = |reason| ModeError { text: text.to_owned(), reason };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self::Octal(mode)),
                _ => Err(error("want octal digits up to 7777")),
            };
        }
        let mut commands = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut commands).map_err(error)?;
        }
        Ok(Self::Symbolic(SymbolicMode(commands)))
    }

    /// The bits that something of these bits gets.
    #[must_use]
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_directory),
        }
    }
}

impl SymbolicMode {
    fn apply(&self, old: u32, is_directory: bool) -> u32 {
        self.0.iter().fold(old, |mode, command| match command {
            Command::Set(bits) => mode | bits,
            Command::Clear(bits) => mode & !bits,
            Command::SetIfExecutable(bits) if is_directory || old & 0o111 != 0 => mode | bits,
            Command::SetIfExecutable(_) => mode,
            Command::Copy { from, to, operator } => {
                let value = mode >> from & 7;
                to.iter().fold(mode, |mode, shift| match operator {
                    '+' => mode | value << shift,
                    '-' => mode & !(value << shift),
                    _ => mode & !(7 << shift) | value << shift,
                })
            }
        })
    }
}

fn parse_clause(clause: &str, commands: &mut Vec<Command>) -> Result<(), &'static str> {
    let start = clause.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a')).ok_or("want `+`, `-` or `=`")?;
    let mut who = 0;
    for class in clause[..start].chars() {
        who |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            _ => 0o6777,
        };
    }
    let mut rest = &clause[start..];
    while let Some(operator) = rest.chars().next() {
        if !matches!(operator, '+' | '-' | '=') {
            return Err("want letters of `rwxXstugo` after `+`, `-` or `=`");
        }
        rest = &rest[1..];
        let length = rest.find(|c| !"rwxXstugo".contains(c)).unwrap_or(rest.len());
        parse_action(who, operator, &rest[..length], commands);
        rest = &rest[length..];
    }
    Ok(())
}

/// Adds the commands of one operator and its letters.
fn parse_action(mut who: u32, operator: char, letters: &str, commands: &mut Vec<Command>) {
    // Set-id and sticky bits mean nothing for others alone.
    let only_others = who != 0 && who & !0o7 == 0;
    let (mut bits, mut execute) = (0, 0);
    let mut replaced = false;
    let mut flush = |who: u32, bits: &mut u32, always: bool, commands: &mut Vec<Command>| {
        let affected = if who == 0 { 0o7777 } else { who };
        if operator == '=' && !replaced && (always || *bits != 0) {
            commands.push(Command::Clear(if who == 0 { 0o6777 } else { who }));
            replaced = true;
        }
        match std::mem::take(bits) & affected {
            0 => {}
            bits if operator == '-' => commands.push(Command::Clear(bits)),
            bits => commands.push(Command::Set(bits)),
        }
    };
    let mut copied = false;
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' => execute = 0o111,
            's' if !only_others => bits |= SET_IDS,
            't' if !only_others => {
                who |= if who == 0 { 0 } else { STICKY };
                bits |= STICKY;
            }
            's' | 't' => {}
            class => {
                flush(who, &mut bits, false, commands);
                copied = true;
                let to = [6, 3, 0].into_iter().filter(|shift| who == 0 || who & 0o4 << shift != 0).collect();
                let from = match class {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                commands.push(Command::Copy { from, to, operator });
            }
        }
    }
    flush(who, &mut bits, !copied, commands);
    if execute != 0 {
        commands.push(Command::SetIfExecutable(execute & if who == 0 { 0o7777 } else { who }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_modes() {
        for (text, old, want) in [
            ("640", 0o777, 0o640),
            ("4755", 0o644, 0o4755),
            ("0", 0o644, 0),
            ("7", 0o644, 7),
            ("g=u", 0o754, 0o774),
            ("go=", 0o754, 0o700),
            ("a-w,o=g", 0o754, 0o555),
            ("u+s,g+s,o+t", 0o754, 0o6754),
            ("+t", 0o755, 0o1755),
            ("a=r", 0o754, 0o444),
            ("a=r", 0o6754, 0o444),
            ("u+x,go-r", 0o644, 0o700),
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o700, 0o755),
            ("+x", 0o644, 0o755),
            ("u+x-r", 0o644, 0o344),
            ("o=u-w", 0o750, 0o755),
        ] {
            assert_eq!(ModeChange::parse(text).unwrap().apply(old, false), want, "{text} on {old:o}");
        }
        assert_eq!(ModeChange::parse("u=rwX,go=rX").unwrap().apply(0o600, true), 0o755);
    }

    #[test]
    fn refuses_what_is_no_mode() {
        for text in ["10000", "u+q", "", "8", "u", "755u", "+7", "u+x,", "rw"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
