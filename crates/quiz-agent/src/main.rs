//! quiz-agent
fn main() {}
