//! Output on a terminal.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder::human;

/// Time between two updates of the progress line.
const SHOWN_EVERY: Duration = Duration::from_millis(200);
const BAR_WIDTH: u64 = 30;

/// The time since a moment; a dash if there was none.
pub fn ago(at: Option<Timestamp>) -> String {
    at.map_or("-".to_string(), |at| human::ago(at, Timestamp::now()))
}

/// A table: columns as wide as what is in them, numbers to the right. A heading that begins with `>` makes its column one
/// of numbers.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let names: Vec<&str> = headings.iter().map(|heading| heading.trim_start_matches('>')).collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([names[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (at, cell) in cells.iter().enumerate() {
            let width = widths[at];
            let padded =
                if headings[at].starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:width$}") };
            text.push_str(&padded);
            text.push_str("  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(names);
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    out
}

/// A line that shows how far long work has come: on a terminal only, and never in the way of what is printed.
pub struct ProgressLine {
    on: bool,
    next: Instant,
}

impl ProgressLine {
    /// `quiet`: a program reads what is printed.
    pub fn new(quiet: bool) -> ProgressLine {
        ProgressLine { on: !quiet && std::io::stderr().is_terminal(), next: Instant::now() }
    }

    #[cfg(test)]
    pub fn off() -> ProgressLine {
        ProgressLine { on: false, next: Instant::now() }
    }

    /// Shows a line, unless one was shown just now.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        if self.on && Instant::now() >= self.next {
            self.next = Instant::now() + SHOWN_EVERY;
            eprint!("\r\x1b[K{}", line());
            let _ = std::io::stderr().flush();
        }
    }

    pub fn clear(&self) {
        if self.on {
            eprint!("\r\x1b[K");
        }
    }

    /// Shows for how long something has gone on that tells nothing itself.
    pub async fn during<T>(&mut self, what: &str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut timer = tokio::time::interval(SHOWN_EVERY);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.clear();
                    return done;
                }
                _ = timer.tick() => self.show(|| format!("{what}, {} s", began.elapsed().as_secs())),
            }
        }
    }
}

/// A bar, and how much of all it is.
pub fn bar(done: u64, of: u64) -> String {
    let done = done.min(of);
    let filled = (u128::from(done) * u128::from(BAR_WIDTH) / u128::from(of.max(1))) as usize;
    let percent = u128::from(done) * 100 / u128::from(of.max(1));
    format!("[{:<30}] {percent:3} %", "#".repeat(filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [vec!["a".to_string(), "100".to_string()], vec!["longer".to_string(), "7".to_string()]];
        assert_eq!(table(&["name", ">n"], &rows), "name      n\na       100\nlonger    7\n");
    }

    #[test]
    fn a_bar_is_full_at_its_end_and_not_before() {
        assert_eq!(bar(0, 0), "[                              ]   0 %");
        assert_eq!(bar(1, 2), "[###############               ]  50 %");
        assert_eq!(bar(9, 2), "[##############################] 100 %");
    }
}
