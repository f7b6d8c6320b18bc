//! The table of architectures: everything that quiz knows about one is a row here.
//!
//! Adding an architecture is adding a row to `rows.rs`, with its fragment of kernel configuration
//! beside it. No other code asks *which* architecture it has in hand; it asks the row. Not for
//! detection of what a host can do (that is measured, see `quiz-vm::accel`).

mod arch;
mod rows;

pub use arch::*;
pub use rows::ALL;

/// The architecture that is called `name`: quiz's name, Debian's, or the kernel's.
pub fn find(name: &str) -> Option<&'static Arch> {
    ALL.iter().copied().find(|a| a.name == name || a.debian == name || a.kernel_arch == name)
}

/// The architecture of the host that this program was built for.
pub fn host() -> &'static Arch {
    find(match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "big") => "ppc64",
        "powerpc64" => "ppc64le",
        "mips64" => "mips64el",
        "arm" => "armv7l",
        "x86" => "i686",
        other => other,
    })
    .unwrap_or(ALL[0])
}

/// Whether KVM on this host can run guests of `arch`, if there is a KVM that works.
pub fn runs_under_kvm_here(arch: &Arch) -> bool {
    arch.kvm && arch.name == host().name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (i, a) in ALL.iter().enumerate() {
            for b in &ALL[i + 1..] {
                assert_ne!(a.name, b.name);
                assert_ne!(a.debian, b.debian);
            }
            assert_eq!(find(a.name), Some(*a));
            assert_eq!(find(a.debian), Some(*a));
            assert!(!a.machines.is_empty());
        }
        assert_eq!(find("vax"), None);
    }
}
