//! Places in the source.

/// A place in the source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The function's name.
    pub function: String,
    /// The source file, as a short path.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
}

/// The places of a frame, the innermost inlined function first.
pub type Places = Vec<Place>;

/// The most informative of a frame's places: one outside of headers, whose functions are used
/// everywhere.
pub fn telling(places: &[Place]) -> Option<&Place> {
    places.iter().find(|place| !place.file.ends_with(".h")).or(places.first())
}
