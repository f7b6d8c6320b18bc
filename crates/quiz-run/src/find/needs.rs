//! What quiz needs on this host for a task.

use quiz_host::tools::{self, Distribution};
use quiz_needs::Purpose;

use crate::context::Context;
use crate::fault::Fault;

/// Returns the user's distribution, as os-release describes it.
pub fn distribution() -> Distribution {
    let text = fs_err::read_to_string("/etc/os-release").or_else(|_| fs_err::read_to_string("/usr/lib/os-release"));
    Distribution::from_os_release(&text.unwrap_or_default())
}

/// Checks that this host has what `purposes` need. The error names everything that is missing.
pub fn require(purposes: &[Purpose], ctx: &Context) -> Result<(), Fault> {
    let search = ctx.search();
    let missing = quiz_needs::missing(purposes, quiz_arch::host(), |sign| search.has(sign));
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|tool| format!("{} ({})", tool.name(), tool.does)).collect();
    let fault = Fault::new(format!("this host lacks {}", names.join(", ")));
    Err(fault.hint(tools::install_hint(&distribution(), &missing)))
}
