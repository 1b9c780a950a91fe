//! One module for each command; none of them reads the environment or the arguments.

mod build;
mod cache;
mod check;
mod client;
mod completions;
mod doctor;
mod fmt;
mod history;
mod images;
mod inspect;
mod man;
mod namespace;
mod plan;
mod push;
mod rmi;
mod run;
mod stored;
mod why;

use std::io::{self, Write};

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::error::{Failure, Kind};
use crate::settings::{Environment, GlobalSettings};

/// The whole command line, for parsing, completions and manual pages.
pub(crate) fn command_line() -> clap::Command {
    Cli::command()
}

/// Does what the command line says; gives the exit status.
///
/// # Errors
/// As the command does.
pub(crate) fn dispatch(cli: &Cli, environment: &Environment) -> Result<u8, Failure> {
    let global_args = cli.global.merged(&cli.command.global());
    let global = || GlobalSettings::new(&global_args, environment);
    match &cli.command {
        Command::Build(args) => return build::run(args, &global()?, environment),
        Command::Plan(args) => return plan::run(args, &global()?, environment),
        Command::Why(args) => why::run(args, &global()?, environment)?,
        Command::Check(args) => return check::run(args, &global()?, environment),
        Command::Fmt(args) => return fmt::run(args, environment),
        Command::Push(args) => push::run(args, &global()?, environment)?,
        Command::Images(args) => images::run(args, &global()?, environment)?,
        Command::Rmi(args) => rmi::run(args, &global()?)?,
        Command::Inspect(args) => inspect::run(args, &global()?)?,
        Command::History(args) => history::run(args, &global()?, environment)?,
        Command::Completions(args) => completions::run(args)?,
        Command::Man(args) => man::run(args)?,
        Command::Doctor(args) => return doctor::run(args, &global()?, environment),
        Command::Cache(args) => return cache::run(args, &global()?, environment),
        Command::Run(args) => return run::run(args, &global()?, environment),
    }
    Ok(0)
}

/// Writes data to standard output. A reader that went away early has seen what it wanted.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub(crate) fn print_data(data: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::caused(Kind::Environment, "cannot write to standard output", &error))
        }
        _ => Ok(()),
    }
}

/// Writes a JSON value to standard output, indented.
///
/// # Errors
/// As [`print_data`].
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print_data(format!("{value:#}\n").as_bytes())
}

/// Lays rows out in columns; the last column is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["a".to_owned(), "é".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(super::table(&["N", "VALUE"], &rows), "N     VALUE\na     é\nlong\n");
    }
}
