//! `rbuild rmi`: takes names away. What only they held on to stays as cache until the store needs the room.

use super::{print_data, stored};
use crate::args::RmiArgs;
use crate::error::{Failure, Kind};
use crate::settings::GlobalSettings;

pub(super) fn run(args: &RmiArgs, global: &GlobalSettings) -> Result<(), Failure> {
    let store = stored::open(global)?;
    let mut images = Vec::new();
    // All names are looked up before the first is taken away, so that a wrong one leaves everything as it was.
    for text in &args.references {
        match stored::find(&store, text) {
            Ok(found) => images.extend(found),
            Err(_) if args.force => {}
            Err(failure) => return Err(failure),
        }
    }
    // An image without a name holds on to nothing, so there is nothing to take away.
    for image in images.iter().filter(|image| !image.reference.is_empty()) {
        if store.untag(&image.reference).map_err(|error| Failure::of(Kind::Environment, &error))? {
            print_data(format!("{}\n", stored::familiar(&image.reference)).as_bytes())?;
        }
    }
    Ok(())
}
