//! A report as one self-contained page: timeline, methods, call graph, latencies, failures.
//!
//! The page is `report.html` with `report.css`, `report.js` and the calls as JSON inside; it loads
//! nothing. What a guest chose (names, arguments) is only ever data: JSON without a `<` in it, put
//! into the page as text nodes by the script.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value as Json, json};

use crate::aidl::Table;
use crate::model::{Call, Peer};
use crate::parcel::plain;
use crate::recording::{Header, Lost};

/// Calls of a page at most: what a browser still draws smoothly.
pub const MAX_CALLS: usize = 500_000;

/// Characters of a call's arguments and result that are shown.
const MAX_TEXT: usize = 240;

/// Collects the calls of a report.
pub struct Report {
    recordings: Vec<Json>,
    strings: Interned<String>,
    threads: Interned<(usize, u32, usize, u32, usize)>,
    calls: Vec<Json>,
    left_out: u64,
    lost: Lost,
}

/// Things that are named by number.
struct Interned<T> {
    numbers: BTreeMap<T, usize>,
    all: Vec<T>,
}

impl<T: Ord + Clone> Interned<T> {
    fn new() -> Interned<T> {
        Interned { numbers: BTreeMap::new(), all: Vec::new() }
    }

    fn number(&mut self, thing: T) -> usize {
        *self.numbers.entry(thing.clone()).or_insert_with(|| {
            self.all.push(thing);
            self.all.len() - 1
        })
    }
}

impl Report {
    /// An empty report about these recordings.
    pub fn new<'a>(headers: impl Iterator<Item = &'a Header>) -> Report {
        let recording = |header: &Header| {
            let guests: Vec<String> = header.guests.iter().map(|guest| plain(&guest.name)).collect();
            json!({
                "guests": guests,
                "image": header.image.as_deref().map(plain),
                "engine": plain(&header.engine),
                "command": header.command.iter().map(|word| plain(word)).collect::<Vec<_>>(),
            })
        };
        Report {
            recordings: headers.map(recording).collect(),
            strings: Interned::new(),
            threads: Interned::new(),
            calls: Vec::new(),
            left_out: 0,
            lost: Lost::default(),
        }
    }

    /// Something is missing.
    pub fn lost(&mut self, lost: &Lost) {
        self.lost.add(lost);
    }

    /// Adds a call.
    pub fn call(&mut self, call: &Call, table: &Table) {
        if self.calls.len() >= MAX_CALLS {
            self.left_out += 1;
            return;
        }
        let record = &call.record;
        let nanos = |time: Option<std::time::Duration>| {
            time.map_or(-1, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
        };
        let arguments = call.arguments(table).map_or_else(String::new, |arguments| arguments.to_string());
        let values = call.result_values(table).map_or_else(String::new, |values| values.to_string());
        let client = self.thread(&call.client);
        let server = call.server.as_ref().map_or(-1, |server| self.thread(server) as i64);
        let mut string = |text: &str| {
            let short: String = text.chars().take(MAX_TEXT).collect();
            let cut = if short.len() < text.len() { "..." } else { "" };
            self.strings.number(short + cut)
        };
        // The script names the columns in this order.
        self.calls.push(json!([
            nanos(Some(call.sent)),
            nanos(call.duration()),
            nanos(call.queued()),
            nanos(call.served()),
            client,
            server,
            string(call.interface.as_deref().unwrap_or("")),
            string(&call.method_label()),
            string(&call.result()),
            u8::from(call.has_failed()),
            u8::from(record.oneway),
            call.size(),
            call.reply_size().unwrap_or(0),
            record.id.0,
            string(call.service.as_deref().unwrap_or("")),
            string(&arguments),
            string(&values),
        ]));
    }

    fn thread(&mut self, peer: &Peer) -> usize {
        let mut string = |text: &str| self.strings.number(text.to_owned());
        let guest = string(&peer.guest_name);
        let process = string(peer.process.as_deref().unwrap_or(""));
        let thread = string(peer.thread.as_deref().unwrap_or(""));
        self.threads.number((guest, peer.party.pid.0, process, peer.party.tid.0, thread))
    }

    /// Writes the page.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let page = include_str!("report.html");
        let (before, rest) = page.split_once("/*STYLE*/").expect("the page has a place for its style");
        let (between, rest) = rest.split_once("/*DATA*/").expect("and for its data");
        let (between2, after) = rest.split_once("/*SCRIPT*/").expect("and for its script");
        write!(out, "{before}{}{between}", include_str!("report.css"))?;
        let threads: Vec<Json> = self.threads.all.iter().map(|thread| json!(thread)).collect();
        write!(out, "{{\"recordings\":{}", harmless(&json!(self.recordings)))?;
        write!(out, ",\"strings\":{}", harmless(&json!(self.strings.all)))?;
        write!(out, ",\"threads\":{},\"left_out\":{}", harmless(&json!(threads)), self.left_out)?;
        if self.lost != Lost::default() {
            write!(out, ",\"lost\":{}", json!(self.lost.to_string()))?;
        }
        write!(out, ",\"calls\":[")?;
        for (index, call) in self.calls.iter().enumerate() {
            write!(out, "{}{}", if index > 0 { ",\n" } else { "" }, harmless(call))?;
        }
        write!(out, "]}}{between2}{}{after}", include_str!("report.js"))?;
        out.flush()
    }
}

/// JSON that ends no script element and opens no comment, whatever text is in it.
fn harmless(json: &Json) -> String {
    json.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{at, calls, header, named, send};
    use binder::trace::TraceEvent;

    fn page(records: &[crate::recording::Record]) -> String {
        let mut report = Report::new([header(Some(14))].iter());
        calls(records, Some(14)).iter().for_each(|call| report.call(call, &Table::default()));
        let mut page = Vec::new();
        report.write(&mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    fn data(page: &str) -> Json {
        let start = page.find("type=\"application/json\">").unwrap() + 24;
        let end = start + page[start..].find("</script>").unwrap();
        serde_json::from_str(&page[start..end]).unwrap()
    }

    #[test]
    fn the_page_has_the_calls_and_loads_nothing() {
        let page = page(&crate::model::tests::world());
        let data = data(&page);
        assert_eq!(data["calls"].as_array().unwrap().len(), 6);
        assert_eq!(data["threads"].as_array().unwrap().len(), 4);
        // The name of SVG is a name, not an address to load.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for word in ["http:", "https:", "src=", "href=", "@import", "innerHTML", "eval("] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn a_hostile_name_stays_a_name() {
        let name = "</script><script>alert(1)//<!--";
        let page = page(&[named(1, name), at(1, TraceEvent::Transaction(send(1, 1, 2)))]);
        assert!(!page.contains("alert(1)//<!--"));
        assert_eq!(page.matches("<script").count(), 2);
        assert!(data(&page)["strings"].as_array().unwrap().iter().any(|text| text == name));
    }
}
