# For gdb: where the modules of a kernel are, which its own list of them tells, and what to connect to. quiz puts FILES and TARGET in front: the files with the
# modules' debug information by their names, and the socket of a VM's stub or None.

import gdb

KNOWN = set()


def sections(module):
    """Names and addresses of a module's sections, as the kernel shows them in /sys/module; at least of its code."""
    try:
        attributes = module["sect_attrs"].dereference()
        found = {}
        for i in range(int(attributes["nsections"])):
            one = attributes["attrs"][i]
            found[one["battr"]["attr"]["name"].string()] = int(one["address"])
        if found:
            return found
    except gdb.error:
        pass
    # The code comes first in the first of a module's pieces of memory (struct module, since 6.4 and before).
    for expression in (lambda: module["mem"][0]["base"], lambda: module["core_layout"]["base"]):
        try:
            return {".text": int(expression())}
        except gdb.error:
            pass
    return {}


def load(module):
    name = module["name"].string()
    where = sections(module)
    if name in KNOWN or name not in FILES or not where:
        return
    # A module may have no code but that of its start. gdb takes all lines of source to be of the code proper, so that those of the start are off.
    words = ["add-symbol-file", FILES[name], hex(where.pop(".text", min(where.values())))]
    for section, address in where.items():
        words += ["-s", section, hex(address)]
    gdb.execute(" ".join(words), to_string=True)
    KNOWN.add(name)


def all_modules():
    kind = gdb.lookup_type("struct module")
    offset = next(field.bitpos // 8 for field in kind.fields() if field.name == "list")
    head = gdb.parse_and_eval("&modules")
    link = head.dereference()["next"]
    while int(link) not in (0, int(head)):
        yield gdb.Value(int(link) - offset).cast(kind.pointer()).dereference()
        link = link.dereference()["next"]


def load_all():
    for module in all_modules():
        load(module)
    print("modules with symbols: " + (", ".join(sorted(KNOWN)) or "none"))


class Modules(gdb.Command):
    """Load the symbols of all modules that the kernel has loaded, where quiz knows their files."""

    def __init__(self):
        super().__init__("quiz-modules", gdb.COMMAND_FILES)

    def invoke(self, argument, from_tty):
        load_all()


class OnLoad(gdb.Breakpoint):
    """Passed by each module before any of its own code runs."""

    def stop(self):
        try:
            load(gdb.selected_frame().read_var("mod").dereference())
        except (gdb.error, ValueError) as error:
            print(f"the symbols of a module were not loaded: {error}")
        return False


class Task(gdb.Function):
    """The task that the selected processor runs: $quiz_task()->comm."""

    def __init__(self):
        super().__init__("quiz_task")

    def invoke(self):
        processor = gdb.selected_thread().num - 1
        try:
            # From 6.2 to 6.14 it is among what each processor needs most.
            variable = gdb.parse_and_eval("&pcpu_hot.current_task")
        except gdb.error:
            variable = gdb.parse_and_eval("&current_task")
        own = int(gdb.parse_and_eval(f"__per_cpu_offset[{processor}]"))
        kind = gdb.lookup_type("struct task_struct").pointer().pointer()
        return gdb.Value((int(variable) + own) % 2**64).cast(kind).dereference()


def frames():
    """Those of the selected processor, the newest first; a damaged stack may have no end."""
    frame = gdb.newest_frame()
    for _ in range(64):
        if frame is None or not frame.is_valid():
            return
        yield frame
        frame = frame.older()


def tell_fault():
    """Says where the processor was when it had an exception, which gdb cannot look behind: the entry is written in assembly."""
    for frame in frames():
        try:
            at = int(frame.read_var("regs").dereference()["ip"])
        except (gdb.error, ValueError):
            continue
        line = gdb.find_pc_line(at)
        where = f"{line.symtab.filename}:{line.line}" if line.symtab else "an unknown file"
        name = gdb.execute(f"info symbol {at:#x}", to_string=True).split(" in section")[0].strip()
        print(f"its exception was at {at:#x}, {name}, {where}")
        return


def select_culprit():
    """Goes to the processor that panicked, and says what it did."""
    first = gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        if any(frame.name() in ("panic", "vpanic") for frame in frames()):
            task = gdb.parse_and_eval("$quiz_task()").dereference()
            print(f"processor {thread.num - 1} panicked, in the task {task['comm'].string()} (pid {int(task['pid'])})")
            tell_fault()
            return
    first.switch()


gdb.execute("set pagination off")
gdb.execute("set confirm off")
Modules()
Task()
if TARGET:
    gdb.execute("target remote " + TARGET)
    hook = OnLoad("do_init_module", type=gdb.BP_HARDWARE_BREAKPOINT, internal=True)
try:
    load_all()
except gdb.error:
    # The kernel of a VM that was just started has mapped nothing.
    print("modules with symbols: none yet")
if not TARGET:
    try:
        select_culprit()
    except gdb.error as error:
        print(f"which processor panicked is not known: {error}")
