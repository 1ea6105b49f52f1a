//! Wiring: the only room that sees every area.
