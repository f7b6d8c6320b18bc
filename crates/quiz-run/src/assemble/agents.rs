//! The agents: the guest's first process, for each architecture that this build of quiz supports.
//! Not for building them (`quiz-agent-build`).

use quiz_arch::Arch;

use crate::fault::Fault;

static AGENTS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/agents.rs"));

/// Returns the agent for guests of `arch`.
pub fn of(arch: &Arch) -> Result<&'static [u8], Fault> {
    AGENTS.iter().find(|(name, _)| *name == arch.name).map(|(_, agent)| *agent).ok_or_else(|| {
        let there: Vec<&str> = names().collect();
        Fault::new(format!("this quiz has no agent for {}; it has those for {}", arch.name, there.join(", "))).hint(format!(
            "releases have all; in quiz's source, `cargo xtask agents {}` makes it, and `cargo install --path crates/quiz` takes it up",
            arch.name
        ))
    })
}

/// Returns the architectures that this build has an agent for, by quiz-arch's names.
pub fn names() -> impl Iterator<Item = &'static str> {
    AGENTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ELF's numbers of machines (`e_machine`) and whether their programs are big-endian.
    fn machine(arch: &str) -> (u16, bool) {
        match arch {
            "x86_64" => (62, false),
            "i686" => (3, false),
            "aarch64" => (183, false),
            "armv7l" => (40, false),
            "s390x" => (22, true),
            "ppc64" => (21, true),
            "ppc64le" => (21, false),
            "riscv64" => (243, false),
            "loongarch64" => (258, false),
            "mips64el" => (8, false),
            other => panic!("which machine is {other}?"),
        }
    }

    #[test]
    fn each_agent_is_a_static_program_of_its_architecture() {
        assert!(of(quiz_arch::host()).is_ok());
        for (name, agent) in AGENTS {
            let big = agent[5] == 2;
            let half = [agent[18], agent[19]];
            let number = if big { u16::from_be_bytes(half) } else { u16::from_le_bytes(half) };
            assert_eq!((number, big), machine(name), "{name}");
            assert!(!agent.windows(4).any(|window| window == b"/ld-"), "{name} names a loader");
        }
    }

    #[test]
    fn where_there_is_no_agent_it_is_said_how_to_make_one() {
        let none = Arch { name: "vax", ..*quiz_arch::host() };
        let fault = of(&none).unwrap_err();
        assert!(fault.message().contains("no agent for vax"));
    }
}
