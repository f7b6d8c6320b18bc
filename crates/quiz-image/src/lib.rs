//! quiz-image
