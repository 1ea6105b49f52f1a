//! What was typed, and what it does.
