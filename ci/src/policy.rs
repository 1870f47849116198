//! Binder policies: calls that a test must not make, looked for in its guest's recording.

use std::path::Path;
use std::sync::Arc;

use binder_trace::aidl::Table;
use binder_trace::filter::Filter;
use binder_trace::model::{Call, Model};
use binder_trace::recording::{Reader, RecordingError};
use binder_trace::text::{self, Style};
use binder_trace::told::Told;
use serde::{Serialize, Serializer};

/// Violations of one rule that are told.
const TOLD: usize = 3;

/// A call that this filter picks must not be made.
#[derive(Clone, Debug)]
pub struct Rule {
    /// As the plan has it.
    pub text: String,
    filter: Filter,
}

impl Rule {
    /// Reads a filter; the error says what is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let filter = Filter::parse(text).map_err(|error| error.to_string())?;
        Ok(Rule { text: text.to_owned(), filter })
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

/// What the recording says against the rules. One that cannot be judged is violated.
pub fn violations(rules: &[Rule], trace: &Path) -> Vec<String> {
    if rules.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<(u64, Vec<String>)> = vec![(0, Vec::new()); rules.len()];
    let table = Arc::new(Table::default());
    let problem = calls(trace, &table, |call| {
        for (rule, (count, told)) in rules.iter().zip(&mut found) {
            if rule.filter.picks(call) {
                *count += 1;
                if told.len() < TOLD {
                    told.push(text::call(call, &table, Style { host_times: false }));
                }
            }
        }
    });
    let violated = rules.iter().zip(found).filter(|(_, (count, _))| *count > 0);
    let mut violations: Vec<String> = violated
        .map(|(rule, (count, told))| {
            format!("{count} calls violate the policy `{}`: {}", rule.text, told.join("; "))
        })
        .collect();
    if let Err(error) = problem {
        violations.push(format!("the policy cannot be judged, because of the recording: {error}"));
    }
    violations
}

/// Every call of a recording, those that did not end included.
fn calls(trace: &Path, table: &Arc<Table>, mut each: impl FnMut(&Call)) -> Result<(), RecordingError> {
    let reader = Told::new(Reader::open(trace)?);
    let mut model = Model::new(reader.header(), 1, table.clone());
    let mut problem = None;
    for record in reader {
        match record {
            Ok(record) => model.record(&record).iter().for_each(&mut each),
            // A guest that was killed leaves a recording without an end; what is there is judged.
            Err(RecordingError::CutOff { .. } | RecordingError::Unfinished { .. }) => {}
            Err(error) => problem = Some(error),
        }
    }
    model.finish().iter().for_each(each);
    problem.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_what_cannot_be_judged_is_told() {
        assert!(Rule::parse("iface==").unwrap_err().contains("column"));
        let rule = Rule::parse("iface==android.os.IServiceManager && method==addService").unwrap();
        let missing = violations(&[rule], "/nowhere/trace.bvt".as_ref());
        assert!(missing[0].contains("cannot be judged"), "{missing:?}");
        assert!(violations(&[], "/nowhere/trace.bvt".as_ref()).is_empty());
    }
}
