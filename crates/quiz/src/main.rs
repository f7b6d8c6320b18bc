//! quiz
fn main() {}
