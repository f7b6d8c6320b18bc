//! Tracks a run of the suite: finished, running and remaining steps. Not for displaying them.

use std::collections::BTreeMap;

use super::result::{Finished, Remarks};
use super::runfile::{Group, short};

/// One script of the run: a test, or the `setup` or `cleanup` of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its group and its name: `cli_root/zpool_get/setup`.
    pub name: String,
}

/// The known progress of a run of the suite.
///
/// The runner's order is known in advance. So the running step can be named even if the guest does
/// not report it.
#[derive(Debug, Clone)]
pub struct Course {
    steps: Vec<Step>,
    finished: Vec<Finished>,
    /// How many steps have certainly finished.
    past: usize,
    /// The step that was last reported to have begun.
    begun: Option<usize>,
    remarks: Remarks,
}

impl Course {
    /// The steps of `groups`, run `iterations` times.
    pub fn new(groups: &[Group], iterations: u32) -> Course {
        let mut sorted: Vec<&Group> = groups.iter().collect();
        sorted.sort_by(|a, b| a.section.cmp(&b.section));
        let mut once = Vec::new();
        for group in sorted {
            let script = |name: &str| Step { name: format!("{}/{}", group.name(), stem(name)) };
            let (pre, post) = (group.setting("pre"), group.setting("post"));
            once.extend(Some(pre).filter(|pre| !pre.is_empty()).map(script));
            once.extend(group.tests.iter().map(|test| script(test)));
            once.extend(Some(post).filter(|post| !post.is_empty()).map(script));
        }
        let steps = std::iter::repeat_n(once, iterations as usize).flatten().collect();
        Course { steps, finished: Vec::new(), past: 0, begun: None, remarks: Remarks::default() }
    }

    /// The number of all steps.
    pub fn total(&self) -> usize {
        self.steps.len()
    }

    /// The finished steps, in the order of their results.
    pub fn finished(&self) -> &[Finished] {
        &self.finished
    }

    /// Records a finished step.
    pub fn finish(&mut self, test: Finished) {
        if let Some(step) = self.position(&test.name) {
            self.past = step + 1;
            // The kernel's log and the runner's output use different channels. This result may
            // arrive after the next step's beginning.
            self.begun = self.begun.filter(|begun| *begun >= self.past);
        }
        self.finished.push(test);
    }

    /// Reads a line of the suite's output that is no result.
    pub fn remark(&mut self, line: &str) {
        self.remarks.read(line);
    }

    /// The suite's messages so far.
    pub fn remarks(&self) -> &Remarks {
        &self.remarks
    }

    /// Records the beginning of a step. Other scripts, such as those run after a failure, belong to
    /// the step before.
    pub fn begin(&mut self, name: &str) {
        self.begun = self.position(name).or(self.begun);
    }

    /// Whether any step is known to have begun.
    pub fn started(&self) -> bool {
        self.begun.is_some() || !self.finished.is_empty()
    }

    /// The running step, if there is one.
    pub fn running(&self) -> Option<&str> {
        let at = self.begun.unwrap_or(self.past);
        self.steps.get(at).map(|step| step.name.as_str())
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.steps[self.past..].iter().position(|step| step.name == name).map(|at| at + self.past)
    }

    /// The steps without a result, each with the number of missing results.
    pub fn missing(&self) -> Vec<(String, usize)> {
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for step in &self.steps {
            *open.entry(&step.name).or_default() += 1;
        }
        for test in &self.finished {
            if let Some(count) = open.get_mut(test.name.as_str()) {
                *count = count.saturating_sub(1);
            }
        }
        open.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// A script's name without the parts that test runners and people leave out.
pub(crate) fn stem(file: &str) -> &str {
    let file = short(file);
    file.strip_suffix(".ksh").or_else(|| file.strip_suffix(".sh")).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::super::result::Outcome;
    use super::super::runfile;
    use super::*;

    fn course(iterations: u32) -> Course {
        let text = "[DEFAULT]\npre = setup\npost = cleanup\n[tests/functional/b]\ntests = ['b_1.ksh', 'b_2']\npost =\n\
            [tests/functional/a]\ntests = ['a_1']\n";
        Course::new(&runfile::parse(text).unwrap(), iterations)
    }

    fn over(name: &str) -> Finished {
        let line = String::new();
        Finished { name: name.to_owned(), user: "root".to_owned(), seconds: 1, result: Outcome::Pass, line }
    }

    #[test]
    fn steps_come_in_the_runners_order() {
        let mut course = course(1);
        for name in ["a/setup", "a/a_1", "a/cleanup", "b/setup", "b/b_1", "b/b_2"] {
            assert_eq!(course.running(), Some(name));
            course.finish(over(name));
        }
        assert_eq!(course.running(), None);
        assert_eq!((course.total(), course.missing()), (6, vec![]));
    }

    #[test]
    fn a_beginning_may_overtake_an_end() {
        let mut course = course(1);
        course.begin("a/setup");
        course.begin("a/a_1");
        course.finish(over("a/setup"));
        assert_eq!(course.running(), Some("a/a_1"));
        course.begin("callbacks/zfs_failsafe");
        assert_eq!(course.running(), Some("a/a_1"));
        course.finish(over("a/a_1"));
        assert_eq!(course.running(), Some("a/cleanup"));
    }

    #[test]
    fn the_same_test_comes_again_in_the_next_iteration() {
        let mut course = course(2);
        for name in ["a/setup", "a/a_1", "a/cleanup", "b/setup", "b/b_1", "b/b_2", "a/setup"] {
            course.begin(name);
            course.finish(over(name));
        }
        assert_eq!(course.running(), Some("a/a_1"));
        let missing: Vec<String> =
            course.missing().into_iter().map(|(name, count)| format!("{name} {count}")).collect();
        assert_eq!(missing, ["a/a_1 1", "a/cleanup 1", "b/b_1 1", "b/b_2 1", "b/setup 1"]);
    }

    #[test]
    fn a_test_that_the_runner_dropped_is_missing() {
        let mut course = course(1);
        for name in ["a/setup", "a/a_1", "a/cleanup", "b/setup", "b/b_2"] {
            course.finish(over(name));
        }
        assert_eq!(course.missing(), [("b/b_1".to_owned(), 1)]);
    }
}
