//! The fuzz targets by name.

/// Gives `data` to a target.
///
/// # Panics
///
/// If the target finds something, or there is none of this name.
pub fn run(name: &str, data: &[u8]) {
    let targets = eventhubs_processor::fuzz::TARGETS
        .iter()
        .chain(eventhubs_emulator::fuzz::TARGETS);
    for (known, target) in targets {
        if *known == name {
            return target(data);
        }
    }
    panic!("no target {name}");
}
