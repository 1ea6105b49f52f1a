//! `sidekey.toml`, flags and environment → every area's `Settings`, or the places of the errors.
