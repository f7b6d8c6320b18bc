//! Places in the source.

/// A place in the source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The function's name.
    pub function: String,
    /// The source file, as short as it can be told.
    pub file: String,
    /// The line, from 1 on.
    pub line: u32,
}

/// Where a frame is, the innermost inlined function first.
pub type Places = Vec<Place>;

/// Of a frame's places the one that tells most: outside of headers, whose functions are
/// everybody's.
pub fn telling(places: &[Place]) -> Option<&Place> {
    places.iter().find(|place| !place.file.ends_with(".h")).or(places.first())
}
