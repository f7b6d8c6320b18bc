//! quiz-vm
