//! Progress as a picture of what runs now, on a terminal: each running step with the last lines of its command;
//! what is finished moves up into the scroll-back, cached steps in one line together.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rbuild_core::progress::{Event, Miss, StepEnd, StepId, StepInfo, Warning};

use super::plain::warning_lines;
use super::{Source, Style, bytes, count, duration, sanitise, title, visible};

/// How many lines of a running command are shown.
const LIVE_LINES: usize = 4;
/// How often the times of running steps are drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// How wide the word is that says how a step ended.
const WORD_WIDTH: usize = 9;
/// The least that is shown of a step's title, however narrow the terminal is: columns.
const LEAST_TITLE: usize = 20;
/// The width of a terminal that does not tell: columns.
const DEFAULT_COLUMNS: usize = 80;

struct Running {
    head: ProgressBar,
    /// Why the step is done, with what stands before it.
    reason: String,
    tail: Vec<ProgressBar>,
    lines: VecDeque<String>,
}

/// The renderer.
pub(super) struct Tty {
    style: Style,
    source: Option<Source>,
    screen: MultiProgress,
    head_style: ProgressStyle,
    line_style: ProgressStyle,
    steps: Vec<StepInfo>,
    running: BTreeMap<StepId, Running>,
    transfers: BTreeMap<String, ProgressBar>,
    /// Cached steps that were not yet told of: the first, and how many.
    cached: Option<(StepId, usize)>,
    status: ProgressBar,
    ended: usize,
}

fn template(text: &str, style: Style) -> ProgressStyle {
    let ticks = if style.utf8 { "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ " } else { "|/-\\ " };
    ProgressStyle::with_template(text).expect("the templates in this file are well-formed").tick_chars(ticks)
}

/// The width of the terminal, which may change at any time.
fn columns() -> usize {
    rustix::termios::tcgetwinsize(rustix::stdio::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(DEFAULT_COLUMNS)
}

/// The beginning of a title, so that it fits into a line.
fn cut(title: &str, room: usize, style: Style) -> String {
    let room = room.max(LEAST_TITLE);
    if title.chars().count() <= room {
        return title.to_owned();
    }
    let mark = if style.utf8 { "…" } else { "..." };
    let kept: String = title.chars().take(room - mark.chars().count()).collect();
    format!("{}{mark}", kept.trim_end())
}

impl Tty {
    pub(super) fn new(style: Style) -> Self {
        let screen = MultiProgress::new();
        let status =
            screen.add(ProgressBar::new_spinner().with_style(template("{spinner} {elapsed:>4} {wide_msg}", style)));
        status.set_message("planning");
        status.enable_steady_tick(TICK);
        Self {
            style,
            source: None,
            screen,
            head_style: template("{spinner} {elapsed:>4} {wide_msg}", style),
            line_style: template("       {wide_msg}", style),
            steps: Vec::new(),
            running: BTreeMap::new(),
            transfers: BTreeMap::new(),
            cached: None,
            status,
            ended: 0,
        }
    }

    pub(super) fn set_source(&mut self, source: Source) {
        self.source = Some(source);
    }

    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Planned { steps } => self.steps.clone_from(steps),
            Event::StepStarted { step, miss } => self.begin(*step, miss.as_ref()),
            Event::Output { step, line, .. } => self.output(*step, line),
            Event::StepEnded { step, end, took } => self.end(*step, end, *took),
            Event::Transfer { what, done, total } => self.transfer(what, *done, *total),
            Event::Warning(warning) => self.warning(warning),
            Event::Note(note) if self.style.verbose => self.print(&format!("note: {}", visible(note))),
            _ => {}
        }
        self.update_status();
    }

    /// Takes everything live off the screen.
    pub(super) fn finish(&mut self) {
        self.tell_cached();
        for (_, running) in std::mem::take(&mut self.running) {
            self.remove(&running);
        }
        for (_, bar) in std::mem::take(&mut self.transfers) {
            bar.finish_and_clear();
        }
        self.status.finish_and_clear();
    }

    fn print(&self, line: &str) {
        // The terminal is gone: there is nobody left to tell, and the build goes on.
        let _ = self.screen.println(line);
    }

    fn update_status(&self) {
        let steps = self.steps.len();
        if steps > 0 {
            self.status.set_message(format!("{} of {} done", self.ended.min(steps), count(steps, "step")));
        }
    }

    fn title(&self, step: StepId) -> String {
        self.steps.get(step.0).map(title).unwrap_or_default()
    }

    fn begin(&mut self, step: StepId, miss: Option<&Miss>) {
        if self.running.contains_key(&step) {
            return;
        }
        let head =
            self.screen.insert_before(&self.status, ProgressBar::new_spinner().with_style(self.head_style.clone()));
        let reason = miss.map(|miss| format!("  ({})", visible(&miss.to_string()))).unwrap_or_default();
        head.set_message(format!("{}{}", self.style.paint("1", &self.title(step)), self.style.paint("2", &reason)));
        head.enable_steady_tick(TICK);
        self.running.insert(step, Running { head, reason, tail: Vec::new(), lines: VecDeque::new() });
    }

    fn output(&mut self, step: StepId, line: &[u8]) {
        self.begin(step, None);
        let text = sanitise(line, self.style.of_output()).replace('\t', "    ");
        let Some(running) = self.running.get_mut(&step) else { return };
        if running.lines.len() == LIVE_LINES {
            running.lines.pop_front();
        } else {
            let above = running.tail.last().unwrap_or(&running.head);
            let bar = ProgressBar::new_spinner().with_style(self.line_style.clone());
            running.tail.push(self.screen.insert_after(above, bar));
        }
        running.lines.push_back(text);
        for (bar, line) in running.tail.iter().zip(&running.lines) {
            bar.set_message(self.style.paint("2", line));
        }
    }

    fn remove(&self, running: &Running) {
        for bar in running.tail.iter().chain([&running.head]) {
            bar.finish_and_clear();
            self.screen.remove(bar);
        }
    }

    fn end(&mut self, step: StepId, end: &StepEnd, took: Duration) {
        self.ended += 1;
        let mut reason = String::new();
        if let Some(mut running) = self.running.remove(&step) {
            self.remove(&running);
            reason = std::mem::take(&mut running.reason);
        }
        if *end == StepEnd::Cached {
            self.cached = Some(self.cached.map_or((step, 1), |(first, number)| (first, number + 1)));
            return;
        }
        self.tell_cached();
        let word = match end {
            StepEnd::Cached | StepEnd::Done | StepEnd::Unchanged => self.style.paint("32", "done     "),
            StepEnd::Failed => self.style.paint("1;31", "failed   "),
            StepEnd::Cancelled => self.style.paint("33", "cancelled"),
        };
        let same = if *end == StepEnd::Unchanged { ", same result as before" } else { "" };
        let took = format!("{:>6}", duration(took));
        let room = columns().saturating_sub(WORD_WIDTH + took.len() + 2 + same.len());
        // Neither of the two pushes the other off the line.
        let title = self.title(step);
        let short = room.saturating_sub(title.chars().count()).max(room / 2);
        let reason = if reason.is_empty() { reason } else { cut(&reason, short, self.style) };
        let title = cut(&title, room.saturating_sub(reason.chars().count()), self.style);
        let reason = if reason.is_empty() { reason } else { self.style.paint("2", &reason) };
        self.print(&format!("{word} {took} {title}{same}{reason}"));
    }

    fn tell_cached(&mut self) {
        let Some((first, number)) = self.cached.take() else { return };
        let more = if number > 1 { format!(" and {} more", number - 1) } else { String::new() };
        let room = columns().saturating_sub(WORD_WIDTH + 1 + more.len());
        self.print(&format!(
            "{} {}{more}",
            self.style.paint("36", "cached   "),
            cut(&self.title(first), room, self.style)
        ));
    }

    fn transfer(&mut self, what: &str, done: u64, total: Option<u64>) {
        if total == Some(done) {
            if let Some(bar) = self.transfers.remove(what) {
                bar.finish_and_clear();
                self.screen.remove(&bar);
            }
            return;
        }
        let bar = self.transfers.entry(what.to_owned()).or_insert_with(|| {
            self.screen.insert_before(&self.status, ProgressBar::new_spinner().with_style(self.head_style.clone()))
        });
        let of = total.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
        bar.set_message(format!("{} {}{of}", visible(what), bytes(done)));
    }

    fn warning(&mut self, warning: &Warning) {
        for line in warning_lines(warning, self.source.as_ref(), self.style) {
            self.print(&line);
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_fit_into_a_line() {
        let style = |utf8| Style { colours: false, utf8, verbose: false };
        assert_eq!(cut("[a 1/2] RUN make", 20, style(true)), "[a 1/2] RUN make");
        assert_eq!(cut("[a 1/2] RUN make install", 21, style(true)), "[a 1/2] RUN make ins…");
        assert_eq!(cut("[a 1/2] RUN make install", 3, style(true)), "[a 1/2] RUN make in…");
        assert_eq!(cut("[a 1/2] RUN make install", 20, style(false)), "[a 1/2] RUN make...");
    }
}
