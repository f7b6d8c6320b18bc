//! `quiz zfs test`: runs the ZFS test suite in one VM, as its own `zfs-tests.sh` does, and reports
//! the results. Not for which tests there are and what results mean (`quiz_zfs::suite`), nor for
//! the guest's side (the profile `ztest`).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use quiz_config::{Origin, RunSpec, ShareSpec, Sourced, Verbosity};
use quiz_needs::Purpose;
use quiz_vm::{Accel, Verdict};
use quiz_zfs::suite::{Course, Group, Judgement, Selection, Suite, judge, runfile};
use serde::Serialize;

use crate::options::RunOptions;
use crate::output;
use crate::run;
use quiz_run::needs;
use quiz_run::{Context, Fault};
use quiz_run::{Ended, Record, prune};
use screen::{Screen, Watcher};

mod screen;

const AFTER_HELP: &str = "\
What can be selected:
  a run file   sanity, common, linux, a path that ends in .run
  a tag        cli_root, zpool_get, functional (which is everything)
  a group      cli_root/zpool_get, tests/functional/atime
  a test       zpool_get_001_pos, cli_root/zpool_get/zpool_get_001_pos, the path of
               its .ksh; a new one need not be in any run file
Run files define the set to choose from, and the other arguments choose from it.
Without run files, the set is common and linux. Without arguments, sanity is run.

Exit codes:
  0                       every test has run, with the expected result
  1                       a test has an unexpected result, or none
  121, 122, 124, 130 ...  the guest ended before the suite (see quiz --help); quiz
                          prints the results so far and the test that was running

The suite's own zts-report.py in this checkout defines the expected results.

The guest has 4 GiB of memory, 2 processors and the disks of the profile blockdev,
unless settings or options say otherwise:
`quiz zfs test -m 8G -p blockdev:count=6 raidz`.";

/// Run tests of the ZFS test suite in a VM, with what was compiled last
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Test {
    /// Run files, tags, groups and tests to run
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<String>,
    /// Run files to select from, by name or path
    #[arg(short, long, value_name = "NAME,...", value_delimiter = ',')]
    pub run_files: Vec<String>,
    /// Groups with one of these tags; or a fraction (1/3), as zfs-tests.sh splits the run files
    #[arg(short = 'T', long, value_name = "TAG,...", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Number of times to run the selection
    #[arg(short = 'I', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub iterations: u32,
    /// Multiply the time limit of each test by N [default: 1 with KVM, 4 without]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub patience: Option<u32>,
    /// List the selection, and run nothing
    #[arg(short, long)]
    pub list: bool,
    /// How to run the VM.
    #[command(flatten)]
    pub options: RunOptions,
}

/// The directory in the guest for the files of this run.
const GUEST_DIR: &str = "/quiz/suite";
/// The run file with the selection.
const RUN_FILE: &str = "selected.run";
/// The factor for time limits without KVM: the guest is much slower than the machines that the
/// limits are for.
const PATIENCE: u32 = 4;

pub fn run(args: Test, outer: super::Which, ctx: &Context) -> Result<ExitCode, Fault> {
    let checkout = super::checkout(ctx)?;
    let suite = Suite::open(&checkout.dir)?;
    let selection = Selection { runfiles: args.run_files, tags: args.tags, words: args.selectors };
    let groups = suite.select(&selection, &ctx.cwd)?;
    if groups.is_empty() {
        return Err(
            Fault::new("no test is in what is selected").hint("quiz zfs test --list shows what a selection means")
        );
    }
    if args.list {
        return list(&groups, ctx);
    }
    crate::standard::require_output()?;
    // Check first: without the tools that read them, the results would be lost.
    needs::require(&[Purpose::ZfsTest], ctx)?;
    let mut options = args.options;
    for (name, value) in [("kernel", outer.kernel), ("arch", outer.arch)] {
        if let Some(key) = quiz_config::key(name) {
            options.settings.set_if_missing(key, value);
        }
    }
    let mut spec = spec(&options, ctx)?;
    let dir = tempfile::Builder::new()
        .prefix("quiz-suite-")
        .tempdir()
        .map_err(|e| Fault::new(format!("cannot make a directory for the run file: {e}")))?;
    let patience = args.patience.map_or_else(|| patience(&spec, ctx), Ok)?;
    fs_err::write(dir.path().join(RUN_FILE), runfile::write(&groups, patience, suite.names_logs()))?;
    spec.shares.push(ShareSpec { host: dir.path().to_owned(), guest: GUEST_DIR.into(), writable: false });
    spec.command = command(&suite, args.iterations);
    let records = spec.json.as_ref().map(output::Records::open).transpose()?;

    let course = Arc::new(Mutex::new(Course::new(&groups, args.iterations)));
    let screen = Screen::start(&course, ctx)?;
    let mut watcher = Watcher::new(Arc::clone(&course), screen.sender());
    let said = dir.path().join("suite.log");
    let doing = || {
        let course = course.lock().unwrap_or_else(PoisonError::into_inner);
        course.running().filter(|_| course.started()).map(|test| format!("the test {test}"))
    };
    let watch = run::Watch {
        output: watcher.output(&said)?,
        errors: watcher.errors(),
        notices: &mut |notice| watcher.hear(notice),
        doing: &doing,
    };
    let ended = run::watched(&spec, watch, ctx);
    drop(watcher);
    screen.finish();
    let mut ended = ended?;
    run::show(&ended, spec.verbosity);
    if let Some(fault) = ended.unwritten.take() {
        return Err(fault);
    }
    ended.keep("suite.log", fs_err::File::open(&said)?)?;
    ended.keep(RUN_FILE, fs_err::File::open(dir.path().join(RUN_FILE))?)?;
    let course = course.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let result = conclude(&ended, &course, &suite, ctx)?;
    ended.keep("tests.json", (result.line() + "\n").as_bytes())?;
    tell(&result, &course, records, ctx)?;
    prune(&spec, ctx)?;
    Ok(ExitCode::from(result.exit_code))
}

fn list(groups: &[Group], ctx: &Context) -> Result<ExitCode, Fault> {
    let name = |group: &Group, test: &String| format!("{}/{}", group.name(), test.strip_suffix(".ksh").unwrap_or(test));
    let all: Vec<String> = groups.iter().flat_map(|group| group.tests.iter().map(|test| name(group, test))).collect();
    match ctx.json {
        true => output::json(&all)?,
        false => output::text(&(all.join("\n") + "\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn is_default<T>(slot: &Option<Sourced<T>>) -> bool {
    slot.as_ref().is_none_or(|sourced| sourced.origins.iter().all(|origin| *origin == Origin::BuiltIn))
}

/// Returns the run for the suite, with defaults that the user can override.
fn spec(options: &RunOptions, ctx: &Context) -> Result<RunSpec, Fault> {
    if options.shell_after {
        return Err(Fault::new("--shell-after has no meaning for tests: their guest has no terminal")
            .hint("quiz -p ztest gives a shell; `zts -t NAME` runs a test there"));
    }
    let (settings, given) = ctx.settings_and_options(options.typed())?;
    let mut spec = ctx.lower(&settings, given, &options.asked(), Vec::new())?;
    if is_default(&settings.memory) {
        spec.memory_mib = 4096;
    }
    if is_default(&settings.cpus) {
        spec.cpus = 2;
    }
    if is_default(&settings.fine_timers) {
        spec.fine_timers = true;
    }
    if is_default(&settings.hang_timeout) {
        spec.hang_timeout = Some(std::time::Duration::from_secs(300));
    }
    if !spec.profiles.iter().any(|name| name == "ztest") {
        spec.profiles.push("ztest".to_owned());
    }
    Ok(spec)
}

fn patience(spec: &RunSpec, ctx: &Context) -> Result<u32, Fault> {
    let arch = quiz_run::arch(Some(&spec.arch))?;
    let known = quiz_run::accelerator(spec.accel, arch, ctx)?;
    Ok(if known.is_some_and(|choice| choice.accel == Accel::Kvm) { 1 } else { PATIENCE })
}

fn command(suite: &Suite, iterations: u32) -> Vec<OsString> {
    let mut words = vec!["zts".to_owned(), "-v".to_owned()];
    words.extend(suite.knows_kmsg().then(|| "-K".to_owned()));
    words.extend(["-r".to_owned(), format!("{GUEST_DIR}/{RUN_FILE}")]);
    words.extend(["-I".to_owned(), iterations.to_string()]);
    words.into_iter().map(OsString::from).collect()
}

/// The results: `tests.json`, and what `--json` prints.
#[derive(Debug, Serialize)]
struct Conclusion<'a> {
    /// The exit code of the program, if all results are there.
    exit_code: u8,
    /// The test that was running when the guest ended.
    running: Option<String>,
    total: judge::Row,
    tests: Vec<TestRecord>,
    /// Tests without a result.
    missing: Vec<String>,
    /// Programs that the suite needs and the guest lacks.
    missing_programs: Vec<String>,
    run: &'a Record,
    #[serde(skip)]
    judgement: Option<Judgement>,
    #[serde(skip)]
    rows: std::collections::BTreeMap<String, judge::Row>,
}

#[derive(Debug, Serialize)]
struct TestRecord {
    name: String,
    user: String,
    result: &'static str,
    seconds: u64,
    /// Whether it passed, or was expected not to.
    expected: bool,
}

impl Conclusion<'_> {
    fn line(&self) -> String {
        serde_json::to_string(self).expect("the conclusion is plain data")
    }
}

fn conclude<'a>(ended: &'a Ended, course: &Course, suite: &Suite, ctx: &Context) -> Result<Conclusion<'a>, Fault> {
    let record = &ended.record;
    let finished = course.finished();
    let judgement = match finished {
        [] => None,
        _ => {
            const RESULTS: &str = "results.txt";
            ended.keep(RESULTS, judge::lines(finished).as_bytes())?;
            let judgement = judge::ask(&suite.judge(), &record.dir.join(RESULTS), &ctx.build_environment())?;
            ended.keep("report.txt", judgement.text.as_bytes())?;
            Some(judgement)
        }
    };
    let missing = course.missing();
    let rows = judge::rows(finished, &missing, judgement.as_ref());
    let complete = missing.is_empty() && judgement.is_some();
    let exit_code = match &record.verdict {
        // The suite's launcher exits with the code of its report, and with a higher one if it could
        // not do its own work.
        Verdict::Exited { code } if finished.is_empty() => (*code).max(1),
        Verdict::Exited { code: 0 } if complete && judgement.as_ref().is_some_and(|j| j.good) => 0,
        Verdict::Exited { .. } => 1,
        other => other.exit_code(),
    };
    let ended = !matches!(record.verdict, Verdict::Exited { .. } | Verdict::Signalled { .. });
    let tests = finished.iter().map(|test| TestRecord {
        name: test.name.clone(),
        user: test.user.clone(),
        result: test.result.word(),
        seconds: test.seconds,
        expected: !judge::is_unexpected(test, judgement.as_ref()),
    });
    Ok(Conclusion {
        exit_code,
        running: course.running().filter(|_| ended && course.started()).map(str::to_owned),
        total: judge::total(rows.values()),
        tests: tests.collect(),
        missing: missing.into_iter().map(|(name, _)| name).collect(),
        missing_programs: course.remarks().missing_programs.clone(),
        run: record,
        judgement,
        rows,
    })
}

/// Prints the table, what is wrong, and where to read more.
fn tell(result: &Conclusion, course: &Course, records: Option<output::Records>, ctx: &Context) -> Result<(), Fault> {
    if let Some(records) = records {
        // In this case, the suite's output goes to standard error.
        records.write(&result.line(), false)?;
    } else if !course.finished().is_empty() {
        output::text("\n")?;
        let mut rows: Vec<Vec<String>> = result.rows.iter().map(|(name, row)| line(name, row)).collect();
        if rows.len() > 1 {
            rows.push(line("all", &result.total));
        }
        output::table(&["GROUP", "PASSED", "FAILED", "SKIPPED", "EXPECTED", "NOT RUN", "TIME"], rows)?;
    }
    let say = crate::report::print;
    if ctx.verbosity != Verbosity::Quiet {
        for test in result.tests.iter().filter(|test| !test.expected) {
            say(&format!("{} {}, which should have passed", test.result, test.name));
        }
        for name in result.judgement.iter().flat_map(|judgement| &judgement.surprises) {
            say(&format!("PASS {name}, which is expected to fail"));
        }
        if ctx.verbosity == Verbosity::Verbose {
            result.missing.iter().for_each(|name| say(&format!("no result of {name}")));
        }
    }
    if let Some(running) = &result.running {
        say(&format!("{running} was running when the guest ended"));
    }
    if !result.missing_programs.is_empty() {
        let programs = result.missing_programs.join(", ");
        say(&format!("the guest lacks programs that the suite wants: {programs}; tests of them fail or are skipped"));
        say("hint: the setting `packages` adds packages to the guest's root");
    }
    let counted = course.remarks().counted.unwrap_or(0);
    if counted > course.finished().len() {
        let read = course.finished().len();
        say(&format!(
            "the suite counts {counted} results, and quiz could read {read}: a result line has a form that it does not know"
        ));
    } else if course.finished().is_empty() {
        say("there is not one test result");
    }
    if !course.finished().is_empty() && !result.missing.is_empty() {
        say(&format!("{} of {} have no result", result.total.missing, result.total.total()));
    }
    let logs = result.run.dir.join("artifacts/test_results");
    let place: &Path = if logs.is_dir() { &logs } else { &result.run.dir };
    if result.exit_code != 0 || ctx.verbosity == Verbosity::Verbose {
        say(&format!("the suite's own log is in {}", place.display()));
    }
    Ok(())
}

fn line(name: &str, row: &judge::Row) -> Vec<String> {
    let numbers = [row.passed, row.failed, row.skipped, row.expected, row.missing];
    let mut line = vec![name.to_owned()];
    line.extend(numbers.map(|number| if number == 0 { "-".to_owned() } else { number.to_string() }));
    line.push(screen::time(row.seconds));
    line
}
