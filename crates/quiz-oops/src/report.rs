//! Reads the kernel's reports: stack frames in the forms of all architectures, and a report's
//! headline, culprit frame, call trace, taint and command. Not for a frame's place in the source
//! (`debug`).

use std::collections::HashSet;

use crate::line::message;
use crate::taint;

/// One frame as the kernel prints it: `func+0x12/0x34 [module]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The function's name in the symbol table.
    pub function: String,
    /// Offset from the start of the function, in bytes.
    pub offset: u64,
    /// The function's size, padding included, in bytes.
    pub size: u64,
    /// The module that it belongs to; `None` for the kernel image.
    pub module: Option<String>,
    /// The address is that of an instruction, not a return address.
    pub exact: bool,
    /// The kernel found it by unwinding, not by guessing.
    pub reliable: bool,
}

impl Frame {
    /// The frame in the kernel's own notation.
    pub fn text(&self) -> String {
        let module = self.module.as_ref().map_or_else(String::new, |name| format!(" [{name}]"));
        format!("{}+{:#x}/{:#x}{module}", self.function, self.offset, self.size)
    }
}

/// Text before the address of an instruction: `RIP: 0010:f`, `pc : f`, `PC is at f`, `epc : f`,
/// `NIP [c…] f`, `Krnl PSW : … (f)`, and `WARNING: … at a.c:1 f`.
const EXACT: &[&str] =
    &["RIP: ", "EIP: ", "pc : ", "PC is at ", "epc : ", "epc   : ", "NIP [", "Krnl PSW : ", "WARNING: "];
/// Text before a register with a return address, which the call trace repeats.
const LINK: &[&str] = &["lr : ", "LR is at ", " ra : ", "ra    : ", "LR [", "Stopper: "];
/// Text that begins a call trace, depending on the architecture.
const TRACE: &[&str] = &["Call Trace:", "Call trace:", "Backtrace:", "Stack:", "CPU: "];
/// Text that ends the first call trace of a report.
const END: &[&str] = &[
    "</TASK>",
    "---[ end",
    "Modules linked in",
    "Allocated by task",
    "Freed by task",
    "Kernel panic - ",
    "Last Breaking-Event-Address",
    "INFO: ",
    "NMI backtrace for cpu",
    "Showing ",
    "sysrq: ",
];

/// Kernel functions that report trouble, wait for a lock, or do general work for a caller: the
/// caller is to blame. A `*` stands for any ending.
const MACHINERY: &[&str] = &[
    "dump_stack*",
    "__dump_stack",
    "show_stack*",
    "panic",
    "vpanic",
    "nmi_panic",
    "die",
    "__die*",
    "oops_enter",
    "oops_exit",
    "oops_begin",
    "oops_end",
    "page_fault_oops",
    "bad_area*",
    "__bad_area*",
    "exc_*",
    "asm_exc_*",
    "do_user_addr_fault",
    "do_kern_addr_fault",
    "kernelmode_fixup*",
    "end_repeat_nmi",
    "unknown_nmi_error",
    "default_do_nmi",
    "nmi_handle",
    "nmi_cpu_backtrace*",
    "nmi_trigger*",
    "io_check_error",
    "report_bug",
    "handle_bug",
    "__warn*",
    "warn_slowpath*",
    "kasan_*",
    "__kasan_*",
    "__asan_*",
    "__hwasan_*",
    "print_report",
    "print_address_*",
    "check_region_inline",
    "ubsan_*",
    "__ubsan_*",
    "kmsan_*",
    "kfence_*",
    "lockdep_*",
    "check_noncircular",
    "__lock_acquire*",
    "lock_acquire*",
    "validate_chain",
    "print_circular_bug*",
    "sysrq_*",
    "__handle_sysrq",
    "write_sysrq_trigger",
    "native_queued_spin_lock_slowpath",
    "queued_spin_lock_slowpath",
    "__pv_queued_spin_lock_slowpath",
    "pv_queued_spin_lock_slowpath",
    "queued_read_lock_slowpath",
    "queued_write_lock_slowpath",
    "_raw_spin_*",
    "_raw_read_*",
    "_raw_write_*",
    "do_raw_spin_lock",
    "__raw_spin_*",
    "rep_nop",
    "cpu_relax",
    "__schedule*",
    "schedule*",
    "__mutex_*",
    "mutex_lock*",
    "ww_mutex_*",
    "rwsem_*",
    "down*",
    "__down*",
    "wait_for_completion*",
    "__wait_for_common",
    "do_wait_for_common",
    "io_schedule*",
    "msleep*",
    "rt_mutex_*",
    "memcpy*",
    "__memcpy",
    "memset*",
    "__memset",
    "memmove*",
    "__memmove",
    "memcmp*",
    "strlen",
    "strcmp",
    "strncmp",
    "strcpy",
    "strnlen",
    "rep_movs*",
    "__list_add_valid*",
    "__list_del_entry_valid*",
    "refcount_warn_saturate",
    "__fortify_*",
    "fortify_panic",
    "__stack_chk_fail",
    "usercopy_abort",
    "el1*",
    "el0*",
    "do_mem_abort",
    "do_translation_fault",
    "do_page_fault*",
    "die_kernel_fault",
    "__do_kernel_fault",
    "brk_handler",
    "bug_handler",
    "do_trap*",
    "handle_exception",
    "do_report_trap",
    "unwind_backtrace",
    "__asm_*",
    "kernel_pgm_check*",
    "pgm_check_handler",
    "__do_pgm_check",
    "kernel_stack_overflow",
];

/// Functions that match [`MACHINERY`] by name but are the cause: `echo c > /proc/sysrq-trigger`
/// crashes here.
const DELIBERATE: &[&str] = &["sysrq_handle_crash"];

/// Reporting functions in modules: OpenZFS reports problems that it finds itself.
const OF_MODULES: &[&str] = &["spl_panic", "spl_dumpstack", "vcmn_err", "cmn_err", "vpanic", "zfs_panic_recover"];
/// Functions of a processor that is idle, or that prints the stacks of the other processors.
const IDLE: &[&str] = &[
    "default_idle",
    "default_idle_call",
    "pv_native_safe_halt",
    "native_safe_halt",
    "acpi_safe_halt",
    "acpi_idle_enter",
    "intel_idle",
    "cpuidle_idle_call",
    "do_idle",
    "arch_cpu_idle",
    "cpu_do_idle",
    "write_sysrq_trigger",
];
/// Functions of a processor that waits for another processor.
const WAITING: &[&str] = &[
    "multi_cpu_stop",
    "stop_machine_yield",
    "smp_call_function_many_cond",
    "smp_call_function_single",
    "csd_lock_wait",
];
/// Text that begins the stack of a processor that was asked for it.
const PROCESSOR: &[&str] = &["NMI backtrace for cpu", "Kernel panic - not syncing: NMI", "CPU: "];

/// The parts of a kernel's report that show at a glance what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its first line, without the time stamp.
    pub headline: String,
    /// The frame to blame, if there is one.
    pub culprit: Option<Frame>,
    /// The call trace from that frame on, innermost first: the frames that the kernel marks as
    /// reliable.
    pub trace: Vec<Frame>,
    /// The letters of the kernel's taint flags.
    pub taint: Option<String>,
    /// The name of the task in which it happened.
    pub task: Option<String>,
}

impl Report {
    /// Reads the report in `text` whose first message is `headline`, with or without indentation.
    /// If `text` has no such message, the report has only its headline: text about something else
    /// is not read.
    pub fn read(text: &str, headline: &str) -> Report {
        let lines: Vec<&str> = text.lines().map(message).collect();
        let headline = headline.trim_start();
        let start = lines.iter().position(|line| line.trim_start() == headline);
        Report::of_messages(start.map_or(&[], |start| &lines[start..]), headline)
    }

    /// Reads the report at the beginning of `lines`, which are messages of the kernel.
    fn of_messages(lines: &[&str], headline: &str) -> Report {
        let mut report = Report {
            headline: headline.to_owned(),
            culprit: None,
            trace: Vec::new(),
            taint: lines.iter().find_map(|line| taint::letters(line)),
            task: lines.iter().find_map(|line| task(line)),
        };
        let mut frames: Vec<Frame> = Vec::new();
        let mut seen = HashSet::new();
        let mut traced = false;
        for (i, line) in lines.iter().enumerate() {
            let ends = END.iter().any(|end| line.trim_start().starts_with(end));
            if i > 0 && ends && traced && !frames.is_empty() {
                break;
            }
            traced |= TRACE.iter().any(|start| line.trim_start().starts_with(start));
            let redundant = LINK.iter().any(|mark| line.contains(mark));
            match frame(line) {
                Some(mut frame) if i == 0 => {
                    // The checker itself names the place.
                    frame.reliable = true;
                    report.culprit = Some(frame);
                }
                Some(frame) if frame.reliable && !redundant && seen.insert(frame.clone()) => frames.push(frame),
                _ => {}
            }
        }
        // Show what the processor did when the request for its stack interrupted it, not how it
        // answers.
        let asked = frames.iter().take_while(|frame| !frame.exact).any(|frame| frame.function == "exc_nmi");
        if asked && let Some(interrupted) = frames.iter().position(|frame| frame.exact) {
            frames.drain(..interrupted);
        }
        let first = frames.iter().position(|frame| match &report.culprit {
            Some(culprit) => frame.function == culprit.function,
            None => !is_machinery(frame),
        });
        report.trace = frames.split_off(first.unwrap_or(0));
        if report.culprit.is_none() {
            report.culprit = first.and_then(|_| report.trace.first().cloned());
        }
        report
    }

    /// Reads from `text` the stack of a processor that was busy in the kernel when its stack was
    /// requested. Of several, takes the first that does not wait for another.
    pub fn of_busy_processor(text: &str) -> Option<Report> {
        let lines: Vec<&str> = text.lines().map(message).collect();
        let starts = |line: &&&str| PROCESSOR.iter().any(|start| line.starts_with(start));
        let mut waiting = None;
        let mut rest = &lines[lines.iter().position(|line| starts(&line)).unwrap_or(lines.len())..];
        while let Some((first, others)) = rest.split_first() {
            let end = others.iter().position(|line| starts(&line)).unwrap_or(others.len());
            let (stack, next) = rest.split_at(end + 1);
            rest = next;
            let has = |names: &[&str]| {
                stack.iter().filter_map(|line| frame(line)).any(|frame| names.contains(&frame.function.as_str()))
            };
            let report = Report::of_messages(stack, first);
            if report.culprit.is_none() || has(IDLE) {
                continue;
            }
            let number = first.strip_prefix("CPU: ").and_then(|line| line.split(' ').next()).unwrap_or("?");
            let report = Report { headline: format!("where processor {number} was when it was asked"), ..report };
            if !has(WAITING) {
                return Some(report);
            }
            waiting = waiting.or(Some(report));
        }
        waiting
    }
}

/// The frame in a line of the kernel's log, if it has one. Of several the last counts: arm prints
/// `f from g`.
pub fn frame(line: &str) -> Option<Frame> {
    let (at, _) = line.match_indices("+0x").filter(|(at, _)| parse(line, *at).is_some()).last()?;
    let mut frame = parse(line, at)?;
    frame.exact = EXACT.iter().any(|mark| line.contains(mark));
    let guessed = line.contains(" ? ") || line.contains("(unreliable)") || line.trim_start().starts_with("([<");
    frame.reliable = !guessed;
    Some(frame)
}

fn parse(line: &str, at: usize) -> Option<Frame> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_.$".contains(c);
    let function = line[..at].rsplit(|c| !is_name(c)).next()?;
    let (offset, rest) = hex(&line[at + 3..])?;
    let (size, rest) = hex(rest.strip_prefix("/0x")?)?;
    if function.is_empty() {
        return None;
    }
    let module = rest.strip_prefix(" [").and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    // A build id may follow the name.
    let module = module.and_then(|inside| inside.split_whitespace().next()).map(str::to_owned);
    Some(Frame { function: function.to_owned(), offset, size, module, exact: false, reliable: true })
}

/// The hexadecimal number at the beginning of a text, and what follows.
fn hex(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    Some((u64::from_str_radix(&text[..end], 16).ok()?, &text[end..]))
}

/// The name of the task in `CPU: 0 PID: 7 Comm: sh Not tainted …`, or in `INFO: task sh:7 blocked
/// …`.
fn task(line: &str) -> Option<String> {
    if let Some((_, rest)) = line.split_once(" Comm: ") {
        let end = rest.find(" Not tainted").or_else(|| rest.find(" Tainted: ")).unwrap_or(rest.len());
        return Some(rest[..end].trim().to_owned());
    }
    let blocked = line.strip_prefix("INFO: task ")?.split_once(" blocked ")?.0;
    Some(blocked.rsplit_once(':')?.0.to_owned())
}

fn is_machinery(frame: &Frame) -> bool {
    // Remove the suffix of a copy that the compiler specialised for some callers.
    let plain = frame.function.split('.').next().unwrap_or(&frame.function);
    if DELIBERATE.contains(&plain) {
        return false;
    }
    let listed = if frame.module.is_some() { OF_MODULES } else { MACHINERY };
    listed.iter().any(|name| match name.strip_suffix('*') {
        Some(start) => plain.starts_with(start),
        None => plain == *name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_architectures_are_read() {
        let plain = |line: &str| frame(line).map(|f| (f.text(), f.exact, f.reliable));
        let frame = |text: &str, exact, reliable| Some((text.to_owned(), exact, reliable));
        for (line, wanted) in [
            (" do_one_initcall+0x54/0x300", frame("do_one_initcall+0x54/0x300", false, true)),
            (" ? zfs_ioc+0x1/0x2 [zfs]", frame("zfs_ioc+0x1/0x2 [zfs]", false, false)),
            ("RIP: 0010:oops_init+0x5/0x1000 [oops]", frame("oops_init+0x5/0x1000 [oops]", true, true)),
            ("RIP: 0033:0x7f12", None),
            ("pc : f.isra.0+0x10/0x20 [zfs 0123abcd]", frame("f.isra.0+0x10/0x20 [zfs]", true, true)),
            (" epc : f+0x10/0x20", frame("f+0x10/0x20", true, true)),
            ("[<ffffffff80002c1e>] dump+0x1c/0x24", frame("dump+0x1c/0x24", false, true)),
            ("NIP [c0000000001] f+0x10/0x20 [m]", frame("f+0x10/0x20 [m]", true, true)),
            ("[c00000] [c0008] f+0x10/0x20 (unreliable)", frame("f+0x10/0x20", false, false)),
            ("Krnl PSW : 0704c00180000000 000003ff8 (f+0x10/0x20 [m])", frame("f+0x10/0x20 [m]", true, true)),
            (" [<000003ff>] f+0x10/0x20 [m] ", frame("f+0x10/0x20 [m]", false, true)),
            (" f from g+0x10/0x14", frame("g+0x10/0x14", false, true)),
            ("[<0>] hrtimer_nanosleep+0xa6/0x120", frame("hrtimer_nanosleep+0xa6/0x120", false, true)),
            ("address is 0x10+0x20", None),
        ] {
            assert_eq!(plain(line), wanted, "{line}");
        }
    }

    const OOPS: &str = "\
[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    2.0] #PF: supervisor write access in kernel mode
[    2.0] Oops: Oops: 0002 [#1] PREEMPT SMP
[    2.0] CPU: 1 UID: 0 PID: 77 Comm: in smod Tainted: G           O       6.12.117-quiz #1
[    2.0] Tainted: [O]=OOT_MODULE
[    2.0] RIP: 0010:oops_init+0x5/0xff0 [oops]
[    2.0] Call Trace:
[    2.0]  <TASK>
[    2.0]  ? __die_body+0x1a/0x60
[    2.0]  ? asm_exc_page_fault+0x22/0x30
[    2.0]  do_one_initcall+0x54/0x300
[    2.0]  __x64_sys_finit_module+0x3a/0x80
[    2.0]  </TASK>
[    2.0] Modules linked in: oops(O+)
[    2.0]  later+0x1/0x2
";

    #[test]
    fn the_instruction_is_to_blame_for_a_wrong_pointer() {
        let report = Report::read(OOPS, "BUG: kernel NULL pointer dereference, address: 0000000000000000");
        assert_eq!(report.culprit.as_ref().unwrap().text(), "oops_init+0x5/0xff0 [oops]");
        let names: Vec<&str> = report.trace.iter().map(|f| f.function.as_str()).collect();
        assert_eq!(names, ["oops_init", "do_one_initcall", "__x64_sys_finit_module"]);
        assert_eq!((report.taint.as_deref(), report.task.as_deref()), (Some("O"), Some("in smod")));
    }

    #[test]
    fn a_headline_that_is_not_there_has_no_report_of_something_else() {
        let wanted = "WARNING: possible circular locking dependency detected";
        let report = Report::read(OOPS, wanted);
        assert_eq!(report.headline, wanted);
        assert_eq!((report.culprit, report.trace.len(), report.taint, report.task), (None, 0, None, None));
        // The text around the headline in the log must not hide it.
        for prefix in ["", "<4>", "[    9.000000] ", "[    9.000000][   T77] ", "[   T77] ", "[    C1]  "] {
            let text = format!("{OOPS}{prefix}[ BUG: Invalid wait context ]\n{prefix}RIP: 0010:g+0x5/0xff0\n");
            let report = Report::read(&text, "[ BUG: Invalid wait context ]");
            assert_eq!(report.culprit.map(|frame| frame.function).as_deref(), Some("g"), "{prefix}");
        }
    }

    #[test]
    fn who_waits_for_a_lock_is_to_blame_and_not_the_lock() {
        let text = "[ 1.0][ T7] INFO: task insmod:64 blocked for more than 2 seconds.\n[ 1.0][ T7] Call Trace:\n[ 1.0][ T7]  <TASK>\n\
            [ 1.0]  __schedule+0x1/0x2\n[ 1.0]  __mutex_lock.constprop.0+0x1/0x2\n[ 1.0]  hang_init+0x1/0x2 [hang]\n[ 1.0]  </TASK>\n";
        let report = Report::read(text, "INFO: task insmod:64 blocked for more than 2 seconds.");
        assert_eq!(report.culprit.unwrap().text(), "hang_init+0x1/0x2 [hang]");
        assert_eq!(report.task.as_deref(), Some("insmod"));
    }

    #[test]
    fn a_checker_names_the_place_itself() {
        let text = "[ 1.0] BUG: KASAN: slab-use-after-free in uaf_init+0x71/0xff0 [uaf]\n[ 1.0] Write of size 1\n\
            [ 1.0] Call Trace:\n[ 1.0]  <TASK>\n[ 1.0]  dump_stack_lvl+0x1/0x2\n[ 1.0]  kasan_report+0x1/0x2\n\
            [ 1.0]  uaf_init+0x71/0xff0 [uaf]\n[ 1.0]  do_one_initcall+0x1/0x2\n[ 1.0]  </TASK>\n\n\
            [ 1.0] Allocated by task 7:\n[ 1.0]  kasan_save_stack+0x1/0x2\n";
        let report = Report::read(text, "BUG: KASAN: slab-use-after-free in uaf_init+0x71/0xff0 [uaf]");
        assert_eq!(report.culprit.unwrap().text(), "uaf_init+0x71/0xff0 [uaf]");
        assert_eq!(report.trace.len(), 2, "{:?}", report.trace);
    }

    #[test]
    fn a_crash_that_was_asked_for_is_not_blamed_on_who_wrote_a_file() {
        let headline = "Kernel panic - not syncing: sysrq triggered crash";
        let text = "[   10.0] Kernel panic - not syncing: sysrq triggered crash\n[   10.0] Call Trace:\n[   10.0]  <TASK>\n\
            [   10.0]  dump_stack_lvl+0x44/0x5c\n[   10.0]  panic+0x118/0x2f4\n[   10.0]  ? _printk+0x68/0x83\n\
            [   10.0]  sysrq_handle_crash+0x16/0x20\n[   10.0]  __handle_sysrq.cold+0x41/0x11c\n\
            [   10.0]  write_sysrq_trigger+0x24/0x40\n[   10.0]  proc_reg_write+0x53/0xa0\n[   10.0]  vfs_write+0xc4/0x3f0\n";
        let report = Report::read(text, headline);
        assert_eq!(report.culprit.unwrap().function, "sysrq_handle_crash");
        // A kernel that prints its state on request is not to blame for the answer.
        let asked = text.replace("handle_crash", "handle_showstate");
        assert_eq!(Report::read(&asked, headline).culprit.unwrap().function, "proc_reg_write");
    }

    #[test]
    fn of_all_processors_the_busy_one_is_found() {
        let text = "[ 1.0] Kernel panic - not syncing: NMI: Not continuing\n[ 1.0] CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6\n\
            [ 1.0] Call Trace:\n[ 1.0]  <NMI>\n[ 1.0]  panic+0x1/0x2\n[ 1.0] RIP: 0010:pv_native_safe_halt+0x1/0x2\n[ 1.0]  </NMI>\n\
            [ 1.0]  do_idle+0x1/0x2\n[ 1.0]  </TASK>\n[ 1.0] NMI backtrace for cpu 2 skipped: idling at default_idle+0x1/0x2\n\
            [ 1.0] NMI backtrace for cpu 1\n[ 1.0] CPU: 1 PID: 7 Comm: insmod Tainted: G  O  6\n\
            [ 1.0] RIP: 0010:native_queued_spin_lock_slowpath+0x1/0x2\n[ 1.0] Call Trace:\n[ 1.0]  <TASK>\n\
            [ 1.0]  _raw_spin_lock_irq+0x1/0x2\n[ 1.0]  stuck+0x1/0x2 [m]\n[ 1.0]  </TASK>\n";
        let report = Report::of_busy_processor(text).unwrap();
        assert_eq!(report.headline, "where processor 1 was when it was asked");
        assert_eq!(report.culprit.unwrap().function, "stuck");
        let idle: Vec<&str> = text.lines().take(10).collect();
        assert_eq!(Report::of_busy_processor(&idle.join("\n")), None);
        let asking = "[ 1.0] CPU: 0 PID: 9 Comm: init\n[ 1.0] Call Trace:\n[ 1.0]  write_sysrq_trigger+0x1/0x2\n\
            [ 1.0]  proc_reg_write+0x1/0x2\n";
        assert_eq!(Report::of_busy_processor(asking), None);
        let waits = "[ 1.0] CPU: 0 PID: 9 Comm: m\n[ 1.0]  multi_cpu_stop+0x1/0x2\n";
        assert!(Report::of_busy_processor(waits).is_some());
        assert_eq!(
            Report::of_busy_processor(&[waits, text].concat()).unwrap().headline,
            "where processor 1 was when it was asked"
        );
    }

    #[test]
    fn no_text_makes_the_reader_panic() {
        for text in ["", "\n", "+0x", "f+0x/0x", "é+0x1/0x2 [", "[", "INFO: task ", " Comm: "] {
            drop((Report::read(text, ""), frame(text)));
        }
    }
}
