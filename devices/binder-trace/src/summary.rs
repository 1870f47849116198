//! Counts and latencies of each method, for a table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::model::Call;
use crate::text::short;

/// Methods that are told apart; further ones are counted together. A guest can invent any number.
const MAX_METHODS: usize = 10_000;

/// Calls of one method.
#[derive(Clone, Debug)]
pub struct Line {
    /// All calls that are over, and those that never were.
    pub calls: u64,
    /// Calls that failed, in the driver or in the service.
    pub errors: u64,
    /// Bytes of data and offsets, replies included.
    pub bytes: u64,
    /// Times in the queue, in nanoseconds.
    pub queue: Histogram<u64>,
    /// Times that the server took.
    pub service: Histogram<u64>,
    /// Times that the client waited.
    pub total: Histogram<u64>,
}

impl Line {
    fn new() -> Line {
        // Two digits are kept: the size of a histogram is bounded, and p99 is true to one percent.
        let histogram = || Histogram::new(2).expect("2 digits are few enough");
        Line { calls: 0, errors: 0, bytes: 0, queue: histogram(), service: histogram(), total: histogram() }
    }

    fn call(&mut self, call: &Call) {
        self.calls += 1;
        self.errors += u64::from(call.has_failed());
        self.bytes = self.bytes.saturating_add(call.size()).saturating_add(call.reply_size().unwrap_or(0));
        let times = [
            (&mut self.queue, call.queued()),
            (&mut self.service, call.served()),
            (&mut self.total, call.duration()),
        ];
        for (histogram, time) in times {
            if let Some(time) = time {
                // An auto-resizing histogram takes any number.
                let _ = histogram.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }
}

/// Lines by interface and method.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    lines: BTreeMap<(Option<Arc<str>>, String), Line>,
}

impl Summary {
    /// Counts a call.
    pub fn call(&mut self, call: &Call) {
        let key = (call.interface.clone(), call.method_label());
        let key = if self.lines.len() < MAX_METHODS || self.lines.contains_key(&key) {
            key
        } else {
            (None, "(others)".to_owned())
        };
        self.lines.entry(key).or_insert_with(Line::new).call(call);
    }

    /// Interface, method and counts, the most called first.
    pub fn lines(&self) -> Vec<(String, &Line)> {
        let mut lines: Vec<(String, &Line)> = self
            .lines
            .iter()
            .map(|((interface, method), line)| {
                (format!("{}.{method}", interface.as_deref().unwrap_or("?")), line)
            })
            .collect();
        lines.sort_by(|(a, x), (b, y)| y.calls.cmp(&x.calls).then_with(|| a.cmp(b)));
        lines
    }

    /// The table as text, its heading first.
    pub fn table(&self) -> Vec<String> {
        self.table_by(|line| line.calls, usize::MAX)
    }

    /// The table, the lines with the greatest `key` first, without as many columns as make it fit into
    /// `width` characters; calls, errors, the longest times and the name are always there.
    pub fn table_by(&self, key: impl Fn(&Line) -> u64, width: usize) -> Vec<String> {
        let mut lines = self.lines();
        lines.sort_by_key(|(_, line)| std::cmp::Reverse(key(line)));
        let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
        rows.extend(lines.iter().map(|(name, line)| row(name, line)));
        let needs = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let mut columns: Vec<(usize, usize)> =
            (0..HEADING.len()).map(|column| (column, needs(column))).collect();
        for dispensable in ["service p50", "queue p50", "total p50", "bytes", "service p99", "queue p99"] {
            if columns.iter().map(|(_, needed)| needed + GAP.len()).sum::<usize>() > width {
                columns.retain(|(column, _)| HEADING[*column] != dispensable);
            }
        }
        let text = |row: &Vec<String>| {
            let cells = columns.iter().map(|&(column, width)| {
                // The name comes last and needs no padding.
                if column + 1 == HEADING.len() {
                    row[column].clone()
                } else {
                    format!("{:>width$}", row[column])
                }
            });
            cells.collect::<Vec<_>>().join(GAP)
        };
        rows.iter().map(text).collect()
    }
}

/// Between two columns of [`Summary::table`].
const GAP: &str = "  ";

/// Titles of the columns of [`Summary::table`].
pub const HEADING: [&str; 10] = [
    "calls",
    "errors",
    "bytes",
    "queue p50",
    "queue p99",
    "service p50",
    "service p99",
    "total p50",
    "total p99",
    "method",
];

/// The cells of a line.
pub fn row(name: &str, line: &Line) -> Vec<String> {
    let quantile = |histogram: &Histogram<u64>, quantile: f64| {
        if histogram.is_empty() {
            return "-".to_owned();
        }
        short(Duration::from_nanos(histogram.value_at_quantile(quantile)))
    };
    let mut cells = vec![line.calls.to_string(), line.errors.to_string(), line.bytes.to_string()];
    for histogram in [&line.queue, &line.service, &line.total] {
        cells.extend([0.5, 0.99].map(|q| quantile(histogram, q)));
    }
    cells.push(name.to_owned());
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{calls, world};

    #[test]
    fn methods_have_counts_and_times() {
        let mut summary = Summary::default();
        calls(&world(), Some(14)).iter().for_each(|call| summary.call(call));
        let table = summary.table();
        assert_eq!(table[0].split_whitespace().count(), 16);
        let cells = |name: &str| {
            let line = table.iter().find(|line| line.ends_with(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            cells("demo.IDemo.#9"),
            ["1", "0", "60", "10us", "10us", "40us", "40us", "60us", "60us", "demo.IDemo.#9"]
        );
        assert_eq!(cells("?.#9")[..3], ["4", "1", "80"]);

        let narrow = summary.table_by(|line| line.calls, 70);
        assert!(narrow.iter().all(|line| line.len() <= 70), "{narrow:?}");
        assert!(
            narrow[0].starts_with("calls  errors") && narrow[0].ends_with("total p99  method"),
            "{narrow:?}"
        );
        assert_eq!(summary.table_by(|line| line.calls, 200), table);
    }
}
