//! quiz-testing
