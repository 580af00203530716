//! One fuzzer for all targets of `laminar::fuzzing`; `LAMINAR_FUZZ_TARGET` says which one runs.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("LAMINAR_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = laminar::fuzzing::target(&name) else {
            let names: Vec<&str> = laminar::fuzzing::TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("LAMINAR_FUZZ_TARGET is one of: {}", names.join(", "));
            std::process::exit(2);
        };
        let _ = TARGET.set(target);
        // The fuzzer's hook ends the process at every panic; some are caught on purpose. Those that are not still end it.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
