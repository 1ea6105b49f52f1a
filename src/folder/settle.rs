//! Quiet and complete? Decides when a reading acts: *act* (complete, 200 ms quiet), *not yet*, or *refuse* (incomplete, `settle` quiet).
//!
//! Pure: readings, changes and times in, decisions out.
