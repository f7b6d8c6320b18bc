//! The accelerator of this host, as far as quiz knows it. Not for finding it out
//! (`quiz_vm::accel`).

use quiz_arch::Arch;
use quiz_config::{AccelChoice, Verbosity};
use quiz_host::Report;
use quiz_host::tools::boot_id;
use quiz_vm::Accel;
use quiz_vm::accel::{AccelError, Choice, Host, Wish};

use crate::assemble::monitor;
use crate::context::Context;
use crate::fault::Fault;

/// Opens the facts about this host.
pub(crate) fn open(ctx: &Context) -> Result<Host, Fault> {
    Ok(Host::open(ctx.cache()?.dir().join("facts.json"), &boot_id()?))
}

pub(crate) fn wish(choice: AccelChoice) -> Wish {
    match choice {
        AccelChoice::Auto => Wish::Auto,
        AccelChoice::Kvm => Wish::Kvm,
        AccelChoice::Tcg => Wish::Tcg,
    }
}

pub(crate) fn refused(error: AccelError) -> Fault {
    let hint = error.hint();
    Fault::from(error).hint(hint)
}

/// Returns the accelerator for guests of `arch` and the reason, if quiz knows them without a trial.
///
/// # Errors
/// If there is no cache, or the requested accelerator is not usable.
pub fn accelerator(choice: AccelChoice, arch: &'static Arch, ctx: &Context) -> Result<Option<Choice>, Fault> {
    let mut host = open(ctx)?;
    let program = ctx.search().program(arch.qemu).or_else(|| monitor::beside_path(arch));
    let program = program.unwrap_or_else(|| arch.qemu.into());
    host.known(wish(choice), arch, &program).map_err(refused)
}

/// Reports a choice that the user should know of.
pub(crate) fn report(choice: &Choice, ctx: &Context) {
    if choice.new && choice.accel == Accel::Tcg {
        ctx.report
            .say(&format!("{}; using QEMU's own translation (TCG), remembered until the host's next boot", choice.why));
    } else if ctx.verbosity >= Verbosity::Verbose {
        ctx.report.say(&format!("accelerator {}: {}", choice.accel.name(), choice.why));
    }
}
