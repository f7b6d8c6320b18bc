//! squashfs images, from archives. Not for what is in them (see `root` and `layer`).

use std::path::Path;
use std::process::Command;

use quiz_host::command::{CommandError, Run};
use quiz_host::tools;

/// The type of these images, as `mount -t` wants it.
pub const FORMAT: &str = "squashfs";
/// Newer files get this time (2020-01-01), so that the same packages make the same image.
pub(crate) const NEWEST_TIME: &str = "1577836800";

/// Makes `image` of the tar archive that `input` reads. Nothing is compressed: reading must be
/// cheap for an emulated CPU.
pub(crate) fn from_tar(input: std::fs::File, image: &Path, doing: &str, log: &Path) -> Result<(), CommandError> {
    let mut command = Command::new(tools::in_sbin("mksquashfs"));
    command.arg("-").arg(image).args(["-tar", "-quiet", "-no-progress"]);
    // gzip is the one compressor that every kernel with squashfs has; nothing is compressed, but
    // the image has to name one.
    command.args(["-comp", "gzip", "-noI", "-noD", "-noF", "-noX"]);
    // The archive's entry for the top directory has no name and is not taken.
    command.args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"]);
    command.env("SOURCE_DATE_EPOCH", NEWEST_TIME);
    Run { command, doing, log }.run_with_input(input, |_| {})
}
