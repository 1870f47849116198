//! The results, as a table and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::Measurements;
use super::contender::{Contender, qemu_version};
use crate::exit::{Code, Failure};

/// The results of all contenders.
#[derive(Debug, Serialize)]
pub struct Report {
    image: String,
    runs: u32,
    qemu: Option<String>,
    work: Vec<Work>,
}

/// A piece of work: the least CPU seconds of each contender that did it.
#[derive(Debug, Serialize)]
struct Work {
    name: String,
    seconds: BTreeMap<&'static str, f64>,
    /// Seconds of the compiling soft engine divided by QEMU's.
    jit_to_qemu: Option<f64>,
}

impl Report {
    /// Fails where two contenders came to different results.
    pub fn new(image: &str, runs: u32, least: &BTreeMap<Contender, Measurements>) -> Result<Report, Failure> {
        let mut work: Vec<Work> = Vec::new();
        let mut results: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        for (contender, measurements) in least {
            for (name, measurement) in measurements {
                if let Some(result) = &measurement.result {
                    let (first, expected) = *results.entry(name).or_insert((contender.name(), result));
                    if expected != result {
                        let message = format!(
                            "{name} gives {expected} with {first} and {result} with {}",
                            contender.name()
                        );
                        return Err(Failure::new(Code::Internal, message));
                    }
                }
                let index = work.iter().position(|work| work.name == *name).unwrap_or_else(|| {
                    work.push(Work { name: name.clone(), seconds: BTreeMap::new(), jit_to_qemu: None });
                    work.len() - 1
                });
                work[index].seconds.insert(contender.name(), measurement.time.as_secs_f64());
            }
        }
        for work in &mut work {
            let of = |contender: Contender| work.seconds.get(contender.name()).copied();
            work.jit_to_qemu = of(Contender::Jit).zip(of(Contender::Qemu)).map(|(jit, qemu)| jit / qemu);
        }
        let qemu = least.contains_key(&Contender::Qemu).then(|| qemu_version(None)).flatten();
        Ok(Report { image: image.to_owned(), runs, qemu, work })
    }

    /// One JSON object.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    /// A line for each piece of work.
    pub fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let all = [Contender::Jit, Contender::Interpreter, Contender::Qemu, Contender::Native];
        write!(out, "{:14}", "CPU ms")?;
        for contender in all {
            write!(out, "{:>14}", contender.name())?;
        }
        writeln!(out, "{:>14}", "jit/qemu")?;
        for work in &self.work {
            write!(out, "{:14}", work.name)?;
            for contender in all {
                match work.seconds.get(contender.name()) {
                    Some(seconds) => write!(out, "{:>14.1}", seconds * 1000.0)?,
                    None => write!(out, "{:>14}", "-")?,
                }
            }
            match work.jit_to_qemu {
                Some(ratio) => writeln!(out, "{ratio:>14.2}")?,
                None => writeln!(out, "{:>14}", "-")?,
            }
        }
        writeln!(
            out,
            "image {}, least of {} runs in turn; {}",
            self.image,
            self.runs,
            match &self.qemu {
                Some(version) => version.as_str(),
                None => "QEMU is not installed (qemu-system-x86_64)",
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::Measurement;

    fn measured(millis: u64, result: &str) -> Measurements {
        vec![(
            "sort".to_owned(),
            Measurement { time: Duration::from_millis(millis), result: Some(result.into()) },
        )]
    }

    #[test]
    fn the_table_has_the_ratio() {
        let least =
            BTreeMap::from([(Contender::Jit, measured(50, "7")), (Contender::Qemu, measured(100, "7"))]);
        let report = Report::new("minimal", 3, &least).unwrap();
        let mut text = Vec::new();
        report.table(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find(|line| line.starts_with("sort")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["sort", "50.0", "-", "100.0", "-", "0.50"]);
    }

    #[test]
    fn different_results_are_an_error() {
        let least =
            BTreeMap::from([(Contender::Jit, measured(50, "7")), (Contender::Qemu, measured(100, "8"))]);
        let error = Report::new("minimal", 3, &least).unwrap_err();
        assert_eq!(error.to_string(), "sort gives 7 with jit and 8 with qemu");
    }
}
