//! Shows the progress of a build: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use images::{Event, Progress};
use indicatif::{ProgressBar, ProgressStyle};

/// Draws progress on stderr.
pub struct Printer {
    bar: Option<ProgressBar>,
    step: String,
}

impl Printer {
    /// A bar if stderr is a terminal.
    pub fn new() -> Printer {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1000);
            let style = ProgressStyle::with_template("{spinner} {elapsed:>5} {prefix} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Printer { bar, step: String::new() }
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Progress for Printer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started { step, detail } => {
                self.step = step.to_owned();
                match &self.bar {
                    Some(bar) => {
                        bar.set_prefix(step.to_owned());
                        bar.set_message(detail.to_owned());
                    }
                    None => eprintln!("{step}: {detail}"),
                }
            }
            Event::Share(share) => {
                if let Some(bar) = &self.bar {
                    bar.set_prefix(format!("{} {:.0} %", self.step, share * 100.0));
                }
            }
            Event::Line(line) => {
                if let Some(bar) = &self.bar {
                    bar.set_message(line.to_owned());
                }
            }
            Event::Finished { step, cached: true, .. } => self.say(&format!("{step}: in the cache")),
            Event::Finished { step, cached: false, took } => {
                self.say(&format!("{step}: done in {:.1} s", took.as_secs_f32()));
            }
            Event::Notice(text) => self.say(text),
        }
    }
}
