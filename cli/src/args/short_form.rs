//! The short form: `rbuild .` is `rbuild build .`, and so is `rbuild -t x .`.

use std::ffi::OsString;

use clap::CommandFactory;

use super::Cli;

/// Puts `build` in front of the first word that is neither a global flag nor a command's name.
///
/// A flag that is not global can only be one of `build`, so everything after it belongs to a build, even a
/// context that is named like a command.
pub(crate) fn expand(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if let Some(place) = place_of_build(&args) {
        args.insert(place, OsString::from("build"));
    }
    args
}

fn place_of_build(args: &[OsString]) -> Option<usize> {
    let cli = Cli::command();
    let mut place = 1;
    while let Some(word) = args.get(place) {
        let text = word.to_string_lossy();
        match text.as_ref() {
            "-h" | "--help" | "-V" | "--version" | "help" => return None,
            "--root" | "--ca" => place += 2,
            "--verbose" => place += 1,
            _ if text.starts_with("--root=") || text.starts_with("--ca=") => place += 1,
            // `-` alone is a context: standard input.
            _ if text.len() > 1 && text.starts_with('-') && text[1..].bytes().all(|byte| byte == b'v') => place += 1,
            _ if cli.find_subcommand(text.as_ref()).is_some() => return None,
            _ => return Some(place),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_is_put_where_it_is_meant() {
        for (typed, meant) in [
            ("rbuild .", "rbuild build ."),
            ("rbuild -t x .", "rbuild build -t x ."),
            ("rbuild -t x push", "rbuild build -t x push"),
            ("rbuild --root /r .", "rbuild --root /r build ."),
            ("rbuild --root=/r -vv .", "rbuild --root=/r -vv build ."),
            ("rbuild -", "rbuild build -"),
            ("rbuild -v - -t x", "rbuild -v build - -t x"),
            ("rbuild ./push", "rbuild build ./push"),
            ("rbuild push x", "rbuild push x"),
            ("rbuild -v push x", "rbuild -v push x"),
            ("rbuild b .", "rbuild b ."),
            ("rbuild --root images images", "rbuild --root images images"),
            ("rbuild build build", "rbuild build build"),
            ("rbuild --help", "rbuild --help"),
            ("rbuild --version", "rbuild --version"),
            ("rbuild -v", "rbuild -v"),
            ("rbuild", "rbuild"),
        ] {
            let got = expand(typed.split(' ').map(OsString::from));
            let got: Vec<_> = got.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(got.join(" "), meant);
        }
    }
}
