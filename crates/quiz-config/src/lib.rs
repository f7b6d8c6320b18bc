//! quiz-config
