//! The table of architectures: all facts about an architecture are in its row.
//!
//! To add an architecture, add a row to `rows.rs`, with its fragment of kernel configuration beside
//! it. Other code never checks *which* architecture it has; it reads the row. Not for detecting
//! what a host can do (that is measured, see `quiz-vm::accel`).

mod arch;
mod rows;

pub use arch::*;
pub use rows::ALL;

/// The architecture with this name: quiz's, Debian's, or the kernel's.
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

/// Whether KVM on this host, if it works, can run guests of `arch`.
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
