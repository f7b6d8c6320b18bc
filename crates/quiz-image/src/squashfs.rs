//! Makes squashfs images from archives. Not for their contents (see `root` and `layer`).

use std::path::Path;
use std::process::Command;

use quiz_host::command::{CommandError, Run};
use quiz_host::tools;

/// The type of these images, for `mount -t`.
pub const FORMAT: &str = "squashfs";
/// The time given to newer files (2020-01-01), so that the same packages make the same image.
pub(crate) const NEWEST_TIME: &str = "1577836800";

/// Makes `image` from the tar archive in `input`. It is not compressed, so that reading is cheap
/// for an emulated CPU.
pub(crate) fn from_tar(input: std::fs::File, image: &Path, doing: &str, log: &Path) -> Result<(), CommandError> {
    let mut command = Command::new(tools::in_sbin("mksquashfs"));
    command.arg("-").arg(image).args(["-tar", "-quiet", "-no-progress"]);
    // The image must name a compressor, although nothing is compressed. gzip is the only one that
    // every kernel with squashfs has.
    command.args(["-comp", "gzip", "-noI", "-noD", "-noF", "-noX"]);
    // mksquashfs ignores the archive's entry for the top directory, because it has no name.
    command.args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"]);
    command.env("SOURCE_DATE_EPOCH", NEWEST_TIME);
    Run { command, doing, log }.run_with_input(input, |_| {})
}
