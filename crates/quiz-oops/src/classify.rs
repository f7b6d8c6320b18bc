//! Classifies kernel messages by the report that they begin: an oops, another report of a problem,
//! or a stalled task or processor. Not for finding the message in a line (`line`).
//!
//! A message counts if it begins like a kernel report, whatever follows. Ordinary messages of
//! kernels and programs may begin with the same words. The kernel's reports differ by parts that
//! they always have: a place in the code, an oops number, a checker's wording.

/// Text that begins the report of a kernel in trouble. It is from
/// `Documentation/admin-guide/bug-hunting.rst`, from the `pr_*` calls in `kernel/panic.c`,
/// `lib/bug.c` and the architectures' fault handlers, and from OpenZFS's `spl_panic` and
/// `vcmn_err`.
const TROUBLE: &[&str] = &[
    "BUG: ",
    "Internal error: ",
    "kernel BUG at ",
    "Kernel BUG at ",
    "Kernel BUG [",
    "Kernel bug detected",
    "kernel tried to execute ",
    "general protection fault:",
    "general protection fault,",
    "double fault:",
    "invalid opcode:",
    "divide error:",
    "stack segment:",
    "segment not present:",
    "invalid TSS:",
    "alignment check:",
    "int3:",
    "control protection fault",
    "Insufficient stack space to handle exception",
    "Kernel stack overflow",
    "Kernel stack is corrupted",
    "Fixing recursive fault but reboot is needed",
    PANIC,
    "PANIC at ",
    "PANIC: ",
];

/// Text that a panicking kernel prints, whatever the cause.
pub const PANIC: &str = "Kernel panic - not syncing";

/// Text that begins the report of a checker built into the kernel: something is wrong, but the
/// kernel continues. It is from `lib/ubsan.c`, `kernel/locking/lockdep.c`, `lib/refcount.c`,
/// `lib/list_debug.c`, `mm/usercopy.c`, `mm/slab.c` and `kernel/sched/idle.c`. Reports that begin
/// with `BUG` are recognised by that word.
const REPORTS: &[&str] = &[
    "[ BUG: ",
    "UBSAN",
    "INFO: trying to register non-static key",
    "DEBUG_LOCKS_WARN_ON",
    "refcount_t: ",
    "list_add corruption",
    "list_del corruption",
    "usercopy: Kernel memory ",
    "Slab corruption ",
    "slab error in ",
    "bad: scheduling from the idle thread",
];

/// The line before the message of any `WARN()` or `BUG()`.
pub const CUT: &str = "------------[ cut here ]------------";

/// Text in the first line of reports by lockdep, which all begin with `WARNING: `, and by the stack
/// unwinder.
const WARNINGS: &[&str] = &[
    "locking dependency",
    "recursive locking",
    "circular locking",
    "lock inversion",
    "lock order",
    "lock state",
    "lock freed",
    "lock held when",
    "locks held",
    "unlock balance",
    "contention detected",
    "ested lock was not taken",
    "RCU usage",
    "chain_key collision",
    "kernel stack ",
    "stack recursion",
    "stack going in the wrong direction",
    "unrecognized unwind stack",
    "can't access registers",
    "can't dereference registers",
];

/// Text that makes a `BUG: ` message an oops.
const FAULTS: &[&str] = &["handle kernel", "handle page fault", "NULL pointer", "guard page"];

/// Whether a message begins the report of a kernel that is in trouble.
pub fn is_trouble(text: &str) -> bool {
    TROUBLE.iter().any(|words| text.starts_with(words))
        // On some architectures the processor is named first.
        || text.contains("Unable to handle kernel ")
        || is_oops(text)
        || is_assertion(text)
}

/// Whether a message begins a report of a problem after which the kernel continues.
pub fn is_report(text: &str) -> bool {
    REPORTS.iter().any(|words| text.starts_with(words))
        || (text.starts_with("BUG: ") && !FAULTS.iter().any(|words| text.contains(words)))
        // SLUB names the cache between these two.
        || (text.starts_with("BUG ") && text.contains("ainted"))
        || (text.starts_with("kmemleak: ") && text.contains("new suspected memory leak"))
        || (text.starts_with("irq ") && text.contains(": nobody cared"))
        || text.strip_prefix("WARNING: ").is_some_and(is_warning)
}

/// Whether a message reports a stalled task or processor. The text is from `kernel/watchdog.c`,
/// `kernel/hung_task.c`, `kernel/rcu/tree_stall.h`, `kernel/smp.c` and
/// `arch/powerpc/kernel/watchdog.c`.
pub fn is_stall(text: &str) -> bool {
    let starts = |words: &[&str]| words.iter().any(|words| text.starts_with(words));
    (starts(&["watchdog: ", "NMI watchdog: "])
        && ["soft lockup - ", "hard LOCKUP", "Hard LOCKUP"].iter().any(|words| text.contains(words)))
        || (starts(&["INFO: task "]) && text.contains(" blocked ") && text.contains(" seconds"))
        || (starts(&["rcu: INFO: ", "INFO: rcu"]) && text.contains(" stall"))
        || (starts(&["rcu: "]) && text.contains(" kthread starved for "))
        || starts(&["smp: csd: Detected non-responsive"])
}

/// Whether the kernel is about to die after this message, so that all later messages belong to it.
pub fn is_fatal(text: &str) -> bool {
    // OpenZFS only stops the task that found the problem.
    let of_openzfs = is_assertion(text) || text.starts_with("PANIC at ");
    is_trouble(text) && !is_report(text) && !of_openzfs
}

/// Whether a message fails a run that must be free of kernel reports.
pub fn is_any(text: &str) -> bool {
    is_trouble(text) || is_report(text) || is_stall(text)
}

/// Whether this is a warning of `WARN()`, which names the place in the code, or of lockdep. Other
/// messages use the same word for problems of their users.
fn is_warning(text: &str) -> bool {
    let of_processor = text.strip_prefix("CPU: ").is_some_and(|rest| {
        rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(" PID: ") && !rest.starts_with(' ')
    });
    of_processor
        || text.contains("+0x")
        || (text.contains(" at ") && text.contains("CPU#"))
        || WARNINGS.iter().any(|words| text.contains(words))
}

/// Whether this is the first line of an oops: by its name, or by its number (`[#1]`), which follows
/// the error code.
fn is_oops(text: &str) -> bool {
    let named =
        text.strip_prefix("Oops").is_some_and(|rest| [":", "[", " [", " -"].iter().any(|c| rest.starts_with(c)));
    let numbered = text.split_once(" [#").is_some_and(|(front, rest)| {
        let number = rest.split_once(']').map_or("", |(number, _)| number);
        let is_code = |word: &str| {
            let (digits, hex) = (|c: u8| c.is_ascii_digit(), |c: u8| c.is_ascii_hexdigit());
            word.len() >= 4 && word.bytes().all(hex) && word.bytes().any(digits)
        };
        (1..=3).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && front.split_once(": ").is_some_and(|(_, code)| code.split([' ', ':']).any(is_code))
    });
    named || numbered
}

/// Whether this is a failed assertion of OpenZFS, such as `VERIFY3U(a, ==, b) failed`.
fn is_assertion(text: &str) -> bool {
    ["VERIFY", "ASSERT"]
        .iter()
        .filter_map(|name| text.strip_prefix(name))
        .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').starts_with('('))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_report_is_any() {
        for text in [
            // lib/bug.c and kernel/panic.c, as in versions 4.18 to 7.2.
            "WARNING: CPU: 1 PID: 7 at fs/x.c:3 f+0x1/0x2",
            "WARNING: CPU: 0 PID: 1 at 0xffffffff81000000",
            "WARNING: fs/x.c:3 at f+0x1/0x2, CPU#1: sh/7",
            "WARNING: fs/x.c:3 at 0xffffffff81000000, CPU#1: sh/7",
            "kernel BUG at mm/slub.c:4023!",
            "Kernel BUG [#1]",
            "refcount_t: underflow; use-after-free.",
            "list_del corruption. prev->next should be ffff, but was dead",
            "usercopy: Kernel memory exposure attempt detected from SLUB object 'x' (offset 0, size 9)!",
            // Oopses.
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "BUG: unable to handle page fault for address: ffffffffdeadbeef",
            "BUG: TASK stack guard page was hit at ffff (stack is ffff..ffff)",
            "Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
            "Oops[#1]:",
            "Oops - illegal instruction [#1]",
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT SMP",
            "general protection fault: 0000 [#2] SMP",
            "double fault: 0000 [#1] PREEMPT SMP",
            "PANIC: double fault, error_code: 0x0",
            "divide error: 0000 [#1] PREEMPT SMP",
            "Internal error: Oops: 0000000096000004 [#1] SMP",
            "Unable to handle kernel paging request at virtual address dead4ead00000000",
            "CPU 0 Unable to handle kernel paging request at virtual address 00000000, epc == 0, ra == 0",
            "specification exception: 0006 ilc:3 [#1] SMP",
            "Kernel panic - not syncing: Fatal exception",
            // Checkers.
            "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "BUG: KFENCE: out-of-bounds read in f+0x1/0x2",
            "BUG: KMSAN: uninit-value in f+0x1/0x2",
            "BUG: KCSAN: data-race in f / g",
            "BUG: sleeping function called from invalid context at kernel/x.c:1",
            "BUG: scheduling while atomic: sh/77/0x00000002",
            "BUG: using smp_processor_id() in preemptible [00000000] code: sh/77",
            "BUG: spinlock bad magic on CPU#0, sh/77",
            "BUG: Bad page state in process sh  pfn:12345",
            "BUG: Bad rss-counter state mm:ffff type:MM_ANONPAGES val:1",
            "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 30s!",
            "BUG: MAX_LOCKDEP_ENTRIES too low!",
            "BUG: Dentry ffff{i=1,n=x} still in use (1) [unmount of ext4 vda]",
            "BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
            "BUG ext4 cache (Tainted: G    B   W ): Object already free",
            "[ BUG: Invalid wait context ]",
            "INFO: trying to register non-static key.",
            "UBSAN: array-index-out-of-bounds in a.c:3:4",
            "kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "DEBUG_LOCKS_WARN_ON(lock->magic != lock)",
            "irq 10: nobody cared (try booting with the \"irqpoll\" option)",
            // lockdep.
            "WARNING: possible circular locking dependency detected",
            "WARNING: possible recursive locking detected",
            "WARNING: possible irq lock inversion dependency detected",
            "WARNING: inconsistent lock state",
            "WARNING: bad unlock balance detected!",
            "WARNING: bad contention detected!",
            "WARNING: suspicious RCU usage",
            "WARNING: lock held when returning to user space!",
            "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
            "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
            "WARNING: Nested lock was not taken",
            "WARNING: held lock freed!",
            "WARNING: sh/77 still has locks held!",
            // Stalls.
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:77]",
            "watchdog: Watchdog detected hard LOCKUP on cpu 1",
            "watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 0",
            "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1",
            "watchdog: CPU 1 detected hard LOCKUP on other CPUs 0",
            "INFO: task sh:12 blocked for more than 10 seconds.",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... }",
            "rcu: rcu_preempt kthread starved for 5252 jiffies! g-1 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0",
            // OpenZFS.
            "VERIFY3(0 == error) failed (0 == 5)",
            "VERIFY0P(x) failed (NULL == ffff)",
            "VERIFY(MUTEX_HELD(&l)) failed",
            "ASSERT3U(a, <=, b) failed (2 <= 1)",
            "PANIC at arc.c:12:arc_init()",
            "PANIC: zfs: adding existent segment to range tree",
        ] {
            assert!(is_any(text), "{text}");
        }
    }

    #[test]
    fn ordinary_messages_do_not() {
        for text in [
            "debug: BUG: is a word here",
            "INFO: lockdep is turned off.",
            "INFO: NMI handler (nmi_cpu_backtrace_handler) took too long to run: 8.877 msecs",
            "INFO: task manager started",
            "rcu: Hierarchical RCU implementation.",
            "rcu: \tRCU calculated value of scheduler-enlistment delay is 25 jiffies.",
            "kmemleak: Kernel memory leak detector initialized (mem pool available: 15000)",
            "kasan: KernelAddressSanitizer initialized",
            "kfence: initialized - using 2097152 bytes for 255 objects",
            "NMI watchdog: Perf NMI watchdog permanently disabled",
            "watchdog: Delayed init of the lockup detector failed: -19",
            "WARNING: Pool 'tank' has encountered an uncorrectable I/O failure and has been suspended.",
            "WARNING: ignoring tunable zfs_arc_max (using 1024 instead)",
            "WARNING: CPU frequency scaling is off",
            "WARNING: CPU: hot",
            "WARNING: Failed to connect to lvmetad. Falling back to device scanning.",
            "WARNING: could not get lock /var/lib/dpkg/lock",
            "WARNING: the disk is nearly full",
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled",
            "VERIFYING the image",
            "VERIFY is done",
            "ASSERTIONS are on",
            "Oops, I did it again",
            "Kernel/User page tables isolation: disabled on command line.",
            "Kernel command line: console=ttyS0 oops=panic panic=-1",
            "traps: sh[5] general protection fault ip:1 sp:2 error:0 in libc",
            "traps: sh[5] trap divide error ip:1 sp:2 error:0",
            "sh[5]: segfault at 0 ip 1 sp 2 error 4 in sh",
            "fixes: dead [#12]",
            "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable",
            "workqueue: x hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
            "sh invoked oom-killer: gfp_mask=0xcc0",
            "BUG reports go to the list",
        ] {
            assert!(!is_any(text), "{text}");
        }
    }

    #[test]
    fn only_what_a_kernel_dies_of_is_fatal() {
        for (text, wanted) in [
            ("BUG: kernel NULL pointer dereference, address: 0", true),
            ("Oops: 0002 [#1]", true),
            ("Kernel panic - not syncing: x", true),
            ("BUG: KASAN: double-free in f", false),
            ("BUG: Bad page state in process sh  pfn:1", false),
            ("WARNING: CPU: 1 PID: 7 at fs/x.c:3 f+0x1/0x2", false),
            ("VERIFY(x) failed", false),
            ("PANIC at arc.c:12:arc_init()", false),
            ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", false),
        ] {
            assert_eq!(is_fatal(text), wanted, "{text}");
        }
    }
}
