//! Times of one contender, and their summary.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The times of one contender.
pub struct Samples {
    pub name: &'static str,
    times: Vec<Duration>,
}

impl Samples {
    pub fn of(name: &'static str) -> Samples {
        Samples { name, times: Vec::new() }
    }

    /// Runs the command once and records its time. A failure ends the benchmark, because its time
    /// would be meaningless.
    pub fn time(&mut self, command: &mut Command) -> Result<Duration, String> {
        self.time_if(command, |output| output.status.success())
    }

    /// The same, with `good` to decide whether it succeeded.
    pub fn time_if(&mut self, command: &mut Command, good: impl Fn(&Output) -> bool) -> Result<Duration, String> {
        let begin = Instant::now();
        let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
        let time = begin.elapsed();
        self.add(time);
        if good(&output) {
            return Ok(time);
        }
        Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// Records a time that was measured elsewhere.
    pub fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    /// The median in milliseconds.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    fn at(&self, part: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let index = ((times.len() - 1) as f64 * part).round() as usize;
        times[index].as_secs_f64() * 1000.0
    }
}

/// Prints a table of all contenders, with their ratio to the first.
pub fn print(all: &[&Samples]) {
    println!("{:<24} {:>9} {:>9} {:>9} {:>7}", "what", "median", "min", "max", "ratio");
    for samples in all {
        println!(
            "{:<24} {:>6.0} ms {:>6.0} ms {:>6.0} ms {:>7.2}",
            samples.name,
            samples.median(),
            samples.at(0.0),
            samples.at(1.0),
            samples.median() / all[0].median(),
        );
    }
}
