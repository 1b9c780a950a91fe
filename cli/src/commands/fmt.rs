//! `rbuild fmt`: formats Dockerfiles in place.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::print_data;
use crate::args::FormatArgs;
use crate::error::{Failure, Kind, of_diagnostics};
use crate::output::Source;
use crate::rewrite::format;
use crate::settings::{Environment, absolute};

/// Formats each file; gives the exit status.
pub(super) fn run(args: &FormatArgs, environment: &Environment) -> Result<u8, Failure> {
    let mut differs = false;
    for file in &args.files {
        let is_folder = absolute(file, environment).is_dir();
        let file = if is_folder { &file.join("Dockerfile") } else { file };
        let name = file.display().to_string();
        let path = absolute(file, environment);
        let is_stdin = name == "-";
        let text = if is_stdin { read_stdin()? } else { read(&path, &name)? };
        let formatted =
            format(&text).map_err(|diagnostics| of_diagnostics(&diagnostics, &Source::new(&name, &text)))?;
        let changed = formatted != text;
        differs |= changed;
        match (args.check, is_stdin) {
            (true, _) if changed => print_data(format!("{name}\n").as_bytes())?,
            (false, true) => print_data(formatted.as_bytes())?,
            (false, false) if changed => write(&path, &name, &formatted)?,
            _ => {}
        }
    }
    Ok(u8::from(args.check && differs))
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|error| Failure::caused(Kind::Build, "cannot read standard input", &error))?;
    Ok(text)
}

pub(super) fn read(path: &Path, name: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::caused(Kind::Build, format!("cannot read `{name}`"), &error))
}

/// Writes the text in place: mode, owner and links of the file stay as they are.
pub(super) fn write(path: &Path, name: &str, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::caused(Kind::Environment, format!("cannot write `{name}`"), &error))
}
