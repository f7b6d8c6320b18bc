//! The architecture that the user named.

use quiz_arch::Arch;

use crate::fault::Fault;

/// The architecture called `name`, or the host's.
///
/// # Errors
/// If quiz knows no architecture of that name.
pub fn arch(name: Option<&str>) -> Result<&'static Arch, Fault> {
    let Some(name) = name else { return Ok(quiz_arch::host()) };
    quiz_arch::find(name).ok_or_else(|| {
        let known = quiz_arch::ALL.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", ");
        Fault::new(format!("quiz knows no architecture `{name}`")).hint(format!("it knows {known}"))
    })
}
