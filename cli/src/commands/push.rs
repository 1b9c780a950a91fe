//! `rbuild push`: an image of the store, to the registry that its name says.

use std::sync::Arc;

use rbuild_core::exec::push_stored;
use rbuild_core::oci::Descriptor;
use rbuild_core::progress::Events;
use rbuild_core::reference::Reference;
use rbuild_core::registry::Client;
use rbuild_core::store::Store;

use super::{client, print_data, stored};
use crate::args::PushArgs;
use crate::error::{Failure, Kind, of_core};
use crate::output::{Display, Style};
use crate::settings::{Environment, GlobalSettings, Progress};
use crate::signals::Stop;

pub(super) fn run(args: &PushArgs, global: &GlobalSettings, environment: &Environment) -> Result<(), Failure> {
    let progress = Progress::new(args.progress.as_deref(), args.quiet, environment)?;
    let reference = Reference::parse(&args.reference).map_err(|error| Failure::of(Kind::Usage, &error))?;
    let store = stored::open(global)?;
    let found = stored::find(&store, &args.reference)?;
    let image = found.first().expect("a search that finds nothing is an error");
    let stop = Stop::listen()?;
    let display = Arc::new(Display::new(progress, Style::of(global, environment)));
    let events: Events = display.clone();
    let result = push(&store, &image.descriptor, &reference, global, environment, &stop, &events);
    display.finish();
    let digest = result.map_err(|failure| stop.failure().unwrap_or(failure))?;
    if args.quiet {
        return print_data(format!("{digest}\n").as_bytes());
    }
    display.say(&[format!("pushed {} {digest}", reference.familiar())]);
    Ok(())
}

fn push(
    store: &Store,
    image: &Descriptor,
    reference: &Reference,
    global: &GlobalSettings,
    environment: &Environment,
    stop: &Stop,
    events: &Events,
) -> Result<rbuild_core::oci::Digest, Failure> {
    let options = client::options(global, environment, stop.flag(), events.clone())?;
    let client = Client::new(options).map_err(|error| Failure::of(Kind::Environment, &error))?;
    push_stored(store, image, reference, client, events.clone()).map_err(|error| of_core(&error))
}
