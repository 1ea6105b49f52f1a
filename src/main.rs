//! The executable; wired once `app` is.
fn main() {}
