//! What the builder tells while it works: plain data, drawn by whoever called it.

use std::time::Duration;

/// One piece of news.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A step begins. At most one runs at a time.
    Started {
        /// Its name, e.g. `kernel`, `compile aosp`.
        step: &'a str,
        /// What it is about, for a person.
        detail: &'a str,
    },
    /// The running step's share done, 0.0 to 1.0. Not every step can tell.
    Share(f32),
    /// A line from a program the step runs (also in the step's log).
    Line(&'a str),
    /// The step is done.
    Finished {
        /// Its name.
        step: &'a str,
        /// True if its result was in the cache.
        cached: bool,
        /// Wall time.
        took: Duration,
    },
    /// Something the user should know, e.g. that another builder is being waited for.
    Notice(&'a str),
}

/// Receives the news of a build.
pub trait Progress {
    /// Called on the builder's thread; should return soon.
    fn event(&mut self, event: Event<'_>);
}

/// For callers that do not want to know.
impl Progress for () {
    fn event(&mut self, _: Event<'_>) {}
}

impl<F: FnMut(Event<'_>)> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}
