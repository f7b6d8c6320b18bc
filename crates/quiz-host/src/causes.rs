//! Adds the cause to errors that do not print it. Not for errors that already do.

use std::io;

/// `error`, with its root cause in its text. An error of `tar` has only what was tried, not why it
/// failed.
pub fn told(error: io::Error) -> io::Error {
    let mut first = None;
    let mut next = error.get_ref().and_then(|inner| inner.source());
    while let Some(cause) = next {
        first = Some(cause);
        next = cause.source();
    }
    let text = error.to_string();
    match first.map(ToString::to_string).filter(|first| !text.contains(first)) {
        Some(first) => io::Error::new(error.kind(), format!("{text}: {first}")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Tried {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn the_first_cause_is_told_and_only_once() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let inner = Tried { text: "cannot write b", source: full() };
        let outer = Tried { text: "cannot unpack a", source: io::Error::other(inner) };
        let error = told(io::Error::new(io::ErrorKind::StorageFull, outer));
        assert_eq!(error.to_string(), "cannot unpack a: No space left on device (os error 28)");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(told(error).to_string(), "cannot unpack a: No space left on device (os error 28)");
        assert_eq!(told(full()).raw_os_error(), Some(libc::ENOSPC));
        let tells = Tried { text: "cannot unpack a: No space left on device (os error 28)", source: full() };
        assert_eq!(told(io::Error::other(tells)).to_string().matches("No space").count(), 1);
    }
}
