//! Any text is a configuration or a list of faults that lie within it; never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sidekey::config::{ConfigErrors, parse, plan_reload};

fuzz_target!(|text: &str| {
    match parse(text, Path::new("/etc/sidekey")) {
        Ok(config) => assert!(plan_reload(&config, &config).needs_restart.is_empty()),
        Err(ConfigErrors::Invalid(faults)) => {
            let lines = text.matches('\n').count() + 1;
            assert!(!faults.is_empty() && faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
        }
        Err(error) => panic!("{error}"),
    }
});
