//! `rbuild cache check`: what is damaged.

use rbuild_core::exec::check_store;
use rbuild_core::store::Problem;
use serde_json::{Value, json};

use super::{failed, print_data, print_json, stored};
use crate::args::{CacheCheckArgs, Format};
use crate::error::{Failure, Kind};
use crate::output::count;
use crate::settings::GlobalSettings;

/// Checks; the status is 1 where damage was found and not repaired.
pub(super) fn run(args: &CacheCheckArgs, global: &GlobalSettings) -> Result<u8, Failure> {
    let store = stored::open(global)?;
    // Some damage is mended by opening the store.
    let mended = store.take_damage();
    let report = check_store(&store).map_err(|error| Failure::of(Kind::Environment, &error))?;
    if args.repair {
        store.repair(&report.problems).map_err(|error| failed(&error))?;
    }
    let problems: Vec<Value> = report.problems.iter().map(|problem| json!(describe(problem))).collect();
    if args.format == Format::Json {
        print_json(&json!({
            "objects": report.objects, "problems": problems, "mended": mended, "repaired": args.repair,
        }))?;
    } else {
        let mut text = String::new();
        for done in &mended {
            text.push_str(&format!("{done}; it was mended\n"));
        }
        for problem in &report.problems {
            text.push_str(&format!("{}{}\n", describe(problem), if args.repair { "; removed" } else { "" }));
        }
        let number = |number: usize, noun| count(number, noun);
        let objects = usize::try_from(report.objects).unwrap_or(usize::MAX);
        text.push_str(&format!("{}, {}\n", number(objects, "object"), number(problems.len(), "problem")));
        print_data(text.as_bytes())?;
        if !problems.is_empty() && !args.repair {
            print_data(b"`rbuild cache check --repair` removes what is damaged; builds make it anew\n")?;
        }
    }
    Ok(u8::from(!report.problems.is_empty() && !args.repair))
}

fn describe(problem: &Problem) -> String {
    match problem {
        Problem::Blob { digest } => format!("the blob `{digest}` is damaged"),
        Problem::Record { path } => format!("the record `{}` is damaged", path.display()),
        Problem::Unpacked { diff_id, file } if file.is_empty() => {
            format!("files of the unpacked layer {diff_id} were changed or are gone")
        }
        Problem::Unpacked { diff_id, file } => format!("the file `{file}` of the unpacked layer {diff_id} is damaged"),
        Problem::Image { reference } => format!("the image `{}` is not in the store", stored::familiar(reference)),
        other => format!("{other:?}"),
    }
}
