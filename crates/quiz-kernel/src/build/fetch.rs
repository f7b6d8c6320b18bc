//! Downloads one file over HTTP. It resumes a broken download, and returns the file only after its
//! checksum is verified. Not for packages (`apt`) nor for repositories (`git`), which verify by
//! themselves.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;

use quiz_host::digest;
use quiz_host::report::{Progress, Report, Unit};

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server refused.
    #[error("cannot download {url}: the server answers {status}{}", if *status == 404 { "; is there such a version?" } else { "" })]
    Refused {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection failed repeatedly.
    #[error("cannot download {url}: {cause}; check the network and try again: what has arrived is kept")]
    Broken {
        /// The URL.
        url: String,
        /// The last error.
        cause: String,
    },
    /// The file's checksum is not the expected one.
    #[error(
        "{name} from {url} is not the file that was announced: its SHA-256 is {got}, it should be {wanted}; it has been \
         deleted. Try again, or another mirror; if it goes on, somebody may be tampering with it"
    )]
    Altered {
        /// The file's name.
        name: String,
        /// Its URL.
        url: String,
        /// The expected checksum.
        wanted: String,
        /// The actual checksum.
        got: String,
    },
    /// The server sent more than such a file can have.
    #[error("cannot download {url}: it is larger than {limit} bytes, which no such file is")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file could not be written here.
    #[error("cannot keep the download: {0}")]
    Io(#[from] io::Error),
}

/// Size limit in bytes: no kernel archive is larger.
const LIMIT: u64 = 4 << 30;
const ATTEMPTS: u32 = 4;

/// Downloads files.
#[derive(Debug)]
pub(crate) struct Fetch {
    agent: ureq::Agent,
    /// Pause between two attempts.
    pause: Duration,
}

impl Default for Fetch {
    fn default() -> Fetch {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // Time limit of one request; the next request continues it. A silent connection
            // therefore does not hang quiz.
            .timeout_recv_body(Some(Duration::from_secs(300)))
            .user_agent(concat!("quiz/", env!("CARGO_PKG_VERSION")))
            .build();
        Fetch { agent: config.into(), pause: Duration::from_secs(2) }
    }
}

impl Fetch {
    /// Downloads a small UTF-8 text, such as a list of checksums: at most a few megabytes.
    pub fn text(&self, url: &str) -> Result<String, FetchError> {
        const SMALL: u64 = 16 << 20;
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(self.pause);
            }
            let response = match self.agent.get(url).call() {
                Ok(response) => response,
                Err(e) => {
                    last = e.to_string();
                    continue;
                }
            };
            let status = response.status().as_u16();
            if status != 200 {
                return Err(FetchError::Refused { url: url.to_owned(), status });
            }
            let mut text = String::new();
            match response.into_body().into_reader().take(SMALL + 1).read_to_string(&mut text) {
                Ok(n) if n as u64 > SMALL => return Err(FetchError::TooLarge { url: url.to_owned(), limit: SMALL }),
                Ok(_) => return Ok(text),
                Err(e) => last = e.to_string(),
            }
        }
        Err(FetchError::Broken { url: url.to_owned(), cause: last })
    }

    /// Downloads `url` to the file `to` and returns its SHA-256.
    ///
    /// With `wanted`, a file with another checksum is deleted and refused, and an existing file
    /// with the right checksum is used as it is. Without `wanted`, an existing file is downloaded
    /// again.
    ///
    /// The download is in `to` with `.part` appended. That file stays when the connection breaks,
    /// and the next call continues it.
    pub fn file(&self, url: &str, to: &Path, wanted: Option<&str>, report: &dyn Report) -> Result<String, FetchError> {
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(wanted) = wanted
            && to.is_file()
        {
            if digest::of_file(to)?.eq_ignore_ascii_case(wanted) {
                return Ok(wanted.to_ascii_lowercase());
            }
            fs::remove_file(to)?;
        }
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        let part = PathBuf::from(format!("{}.part", to.display()));
        // Without a checksum, the beginning of an older file must not become part of this one.
        if wanted.is_none() && part.exists() {
            fs::remove_file(&part)?;
        }
        let progress = report.start(&format!("downloading {name}"), None, Unit::Bytes);
        let resumed = self.fill(url, &part, progress.as_ref())?;
        let mut got = digest::of_file(&part)?;
        if let Some(wanted) = wanted
            && !got.eq_ignore_ascii_case(wanted)
            && resumed
        {
            // The first part may be from another file of that name; a complete download may be
            // right.
            report.say(&format!("{name} does not fit together with what was downloaded earlier: starting again"));
            fs::remove_file(&part)?;
            self.fill(url, &part, progress.as_ref())?;
            got = digest::of_file(&part)?;
        }
        if let Some(wanted) = wanted
            && !got.eq_ignore_ascii_case(wanted)
        {
            fs::remove_file(&part)?;
            return Err(FetchError::Altered { name, url: url.to_owned(), wanted: wanted.to_owned(), got });
        }
        fs::rename(&part, to)?;
        progress.done();
        Ok(got)
    }

    /// Downloads the rest of `part`, with as many requests as necessary. Returns whether it
    /// continued data of an earlier call.
    fn fill(&self, url: &str, part: &Path, progress: &dyn Progress) -> Result<bool, FetchError> {
        let resumed = fs::metadata(part).is_ok_and(|m| m.len() > 0);
        let mut last = String::new();
        let (mut attempt, mut had) = (0, None);
        while attempt < ATTEMPTS {
            if had.is_some() {
                std::thread::sleep(self.pause);
            }
            let have = fs::metadata(part).map_or(0, |m| m.len());
            // An attempt that received data does not count as failed.
            attempt = if had.is_some_and(|had| have > had) { 1 } else { attempt + 1 };
            had = Some(have);
            let mut request = self.agent.get(url);
            if have > 0 {
                request = request.header("Range", format!("bytes={have}-"));
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(e) => {
                    last = e.to_string();
                    continue;
                }
            };
            let status = response.status().as_u16();
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let from = match status {
                200 => 0,
                206 if header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {have}-"))) => have,
                // The server has no more data: the part is either complete, or from another file.
                416 if have > 0 => return Ok(resumed),
                500..=599 | 429 => {
                    last = format!("the server answers {status}");
                    continue;
                }
                status => return Err(FetchError::Refused { url: url.to_owned(), status }),
            };
            let length = header("content-length").and_then(|l| l.parse::<u64>().ok()).map(|l| l + from);
            if let Some(length) = length {
                progress.total(length);
            }
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(part)?;
            file.set_len(from)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
            match copy(&mut response.into_body().into_reader(), &mut file, from, progress)? {
                Ok(end) if end > LIMIT => {
                    drop(file);
                    fs::remove_file(part)?;
                    return Err(FetchError::TooLarge { url: url.to_owned(), limit: LIMIT });
                }
                Ok(end) if length.is_none_or(|l| l == end) => {
                    file.sync_all()?;
                    return Ok(resumed);
                }
                Ok(end) => last = format!("the connection ended after {end} of {} bytes", length.unwrap_or(0)),
                Err(e) => last = e.to_string(),
            }
        }
        Err(FetchError::Broken { url: url.to_owned(), cause: last })
    }
}

/// Copies to the end, or a little past the limit. The outer error is of the file, the inner one of
/// the connection; data that arrived before it is in the file.
fn copy(
    from: &mut dyn Read,
    to: &mut fs::File,
    start: u64,
    progress: &dyn Progress,
) -> io::Result<Result<u64, io::Error>> {
    let mut at = start;
    let mut buffer = vec![0; 1 << 17];
    while at <= LIMIT {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Ok(Err(e)),
        };
        to.write_all(&buffer[..n])?;
        at += n as u64;
        progress.at(at);
    }
    Ok(Ok(at))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use quiz_host::report::Silent;
    use std::collections::HashMap;
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// A server on the loopback interface that serves some files, supports ranges, and can break
    /// off on request.
    pub(crate) struct Server {
        pub url: String,
        state: Arc<Mutex<State>>,
    }

    #[derive(Default)]
    struct State {
        files: HashMap<String, Vec<u8>>,
        /// Path and range of each request.
        asked: Vec<(String, String)>,
        /// How many answers to break off in the middle.
        breaking: u32,
    }

    impl Server {
        pub(crate) fn start() -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let state: Arc<Mutex<State>> = Arc::default();
            let shared = Arc::downgrade(&state);
            std::thread::spawn(move || {
                // It ends with the process; there are no connections after the test.
                for stream in listener.incoming() {
                    let (Ok(stream), Some(state)) = (stream, shared.upgrade()) else { break };
                    let _gone = answer(stream, &mut state.lock().unwrap());
                }
            });
            Server { url, state }
        }

        pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
            self.state.lock().unwrap().files.insert(path.to_owned(), bytes.to_owned());
        }

        /// Path and range of each request so far.
        pub(crate) fn asked(&self) -> Vec<(String, String)> {
            self.state.lock().unwrap().asked.clone()
        }

        fn break_off(&self, times: u32) {
            self.state.lock().unwrap().breaking = times;
        }
    }

    fn answer(stream: TcpStream, state: &mut State) -> io::Result<()> {
        let mut lines = io::BufRead::lines(io::BufReader::new(stream.try_clone()?));
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut range = String::new();
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("range")
            {
                range = value.to_owned();
            }
        }
        state.asked.push((path.clone(), range.clone()));
        let mut stream = stream;
        let Some(bytes) = state.files.get(&path) else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let from = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')).map_or(0, |n| n.parse().unwrap());
        if from > 0 && from >= bytes.len() {
            return stream.write_all(b"HTTP/1.1 416 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let rest = &bytes[from..];
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", rest.len());
        if from > 0 {
            head += &format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        }
        let sent = if state.breaking > 0 { &rest[..rest.len() / 2] } else { rest };
        state.breaking = state.breaking.saturating_sub(1);
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(sent)
    }

    pub(crate) fn quick() -> Fetch {
        Fetch { pause: Duration::from_millis(1), ..Fetch::default() }
    }

    fn data() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| n.to_le_bytes()).collect()
    }

    #[test]
    fn a_broken_connection_is_resumed_where_it_broke() {
        let (server, dir, data) = (Server::start(), tempfile::tempdir().unwrap(), data());
        server.put("/a.tar", &data);
        server.break_off(2);
        let to = dir.path().join("d/a.tar");
        let sum = digest::of_bytes(&data);
        let got = quick().file(&format!("{}/a.tar", server.url), &to, Some(&sum), &Silent).unwrap();
        assert_eq!((got, fs::read(&to).unwrap()), (sum.clone(), data));
        let ranges: Vec<_> = server.asked().into_iter().map(|(_, range)| range).collect();
        assert_eq!(ranges, ["", "bytes=400000-", "bytes=600000-"]);
        // The second time the server receives no request.
        quick().file(&format!("{}/a.tar", server.url), &to, Some(&sum), &Silent).unwrap();
        assert_eq!(server.asked().len(), 3);
    }

    #[test]
    fn what_arrived_is_kept_for_the_next_try_but_never_given_out() {
        let (server, dir, data) = (Server::start(), tempfile::tempdir().unwrap(), data());
        server.put("/a.tar", &data);
        server.break_off(u32::MAX);
        let to = dir.path().join("a.tar");
        let url = format!("{}/a.tar", server.url);
        let error = quick().file(&url, &to, Some(&digest::of_bytes(&data)), &Silent).unwrap_err();
        assert!(matches!(&error, FetchError::Broken { .. }) && error.to_string().contains(&url), "{error}");
        assert!(!to.exists() && dir.path().join("a.tar.part").exists());
        server.break_off(0);
        quick().file(&url, &to, Some(&digest::of_bytes(&data)), &Silent).unwrap();
        assert_eq!(fs::read(&to).unwrap(), data);
        assert!(!dir.path().join("a.tar.part").exists());
    }

    #[test]
    fn an_altered_file_is_refused_by_name_and_deleted() {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        server.put("/a.tar", b"evil");
        let to = dir.path().join("a.tar");
        let wanted = digest::of_bytes(b"good");
        let error = quick().file(&format!("{}/a.tar", server.url), &to, Some(&wanted), &Silent).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FetchError::Altered { .. }) && text.starts_with("a.tar from "), "{text}");
        assert!(text.contains(&wanted) && text.contains(&digest::of_bytes(b"evil")), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // A corrupted file on disk is downloaded again.
        fs::write(&to, "rotten").unwrap();
        server.put("/a.tar", b"good");
        quick().file(&format!("{}/a.tar", server.url), &to, Some(&wanted), &Silent).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"good");
    }

    #[test]
    fn a_wrong_first_half_does_not_spoil_the_file() {
        let (server, dir, data) = (Server::start(), tempfile::tempdir().unwrap(), data());
        server.put("/a.tar", &data);
        let to = dir.path().join("a.tar");
        for part in [vec![7; 1000], vec![7; data.len()], vec![7; data.len() + 5]] {
            fs::write(dir.path().join("a.tar.part"), part).unwrap();
            let sum = digest::of_bytes(&data);
            quick().file(&format!("{}/a.tar", server.url), &to, Some(&sum), &Silent).unwrap();
            assert_eq!(fs::read(&to).unwrap(), data);
            fs::remove_file(&to).unwrap();
        }
    }

    #[test]
    fn a_missing_file_is_an_answer() {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        let url = format!("{}/nosuch", server.url);
        for error in
            [quick().text(&url).unwrap_err(), quick().file(&url, &dir.path().join("x"), Some(""), &Silent).unwrap_err()]
        {
            assert!(matches!(error, FetchError::Refused { status: 404, .. }), "{error}");
        }
    }
}
