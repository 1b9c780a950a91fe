//! Builds an image from a folder with a Dockerfile: `cargo run --example build -- STORE CONTEXT NAME`.

use std::error::Error;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_core::exec::{BuildOptions, Cancel, build};
use rbuild_core::progress::Event;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, context, name] = &arguments[..] else { return Err("usage: build STORE CONTEXT NAME".into()) };
    let mut options = BuildOptions::new(store, context);
    options.tags = vec![name.parse()?];
    options.now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let show = |event: Event| match event {
        Event::Planned { steps } => steps.iter().for_each(|step| println!("plan    {}", step.name)),
        Event::StepStarted { step, .. } => println!("start   {}", step.0),
        Event::Output { line, .. } => println!("        {}", String::from_utf8_lossy(&line)),
        Event::StepEnded { step, end, took } => println!("end     {} {end:?} after {took:?}", step.0),
        _ => {}
    };
    let result = build(&options, Arc::new(show), &Cancel::new())?;
    println!("built   {}", result.manifest.ok_or("an image was asked for")?.digest);
    Ok(())
}
