//! Any path: normalising never panics, twice is once, and the result holds nothing that a backend could read otherwise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidekey::trust::allow::{normalise, pattern};

fuzz_target!(|path: &str| {
    let Ok(normal) = normalise(path) else { return };
    assert_eq!(normalise(&normal).as_deref(), Ok(normal.as_str()));
    assert!(normal.starts_with('/') && normal.is_ascii() && !normal.contains("//"));
    assert!(!normal.contains(['\\', ';', '?', '#']));
    assert!(normal.split('/').all(|segment| !matches!(segment, "." | "..")));
    assert!(pattern::matches_path("/**", &normal));
});
