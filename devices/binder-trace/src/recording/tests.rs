use super::*;
use binder::ProcId;
use binder::trace::TraceEvent;
use proptest::prelude::*;
use std::fs::File;

fn header() -> Header {
    Header {
        version: VERSION,
        guests: vec![GuestName { id: GuestId(0), name: "g0".into() }],
        image: Some("minimal".into()),
        engine: "soft".into(),
        command: vec!["true".into()],
        has_end: true,
        ..Header::default()
    }
}

fn records() -> Vec<Record> {
    let event = |n| Stamped {
        at: Duration::from_micros(n),
        guest: GuestId(0),
        event: TraceEvent::ProcReleased { proc: ProcId(n as u32) },
    };
    let name = ThreadName { guest: GuestId(0), pid: Pid(1), tid: Tid(1), name: b"init".to_vec() };
    vec![
        Record::Name(name),
        Record::Event(event(1)),
        Record::Event(event(2)),
        Record::Lost(Lost { events: 3, ..Lost::default() }),
    ]
}

fn file() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &header()).unwrap();
    records().iter().for_each(|record| writer.record(record));
    writer.finish().unwrap();
    drop(writer);
    bytes
}

fn encoded(records: &[Record]) -> Vec<Vec<u8>> {
    records.iter().map(encode_record).collect()
}

#[test]
fn what_was_written_is_read() {
    let bytes = file();
    let reader = Reader::new(bytes.as_slice()).unwrap();
    assert_eq!(reader.header(), &header());
    let read: Vec<Record> = reader.collect::<Result<_, _>>().unwrap();
    assert_eq!(encoded(&read), encoded(&records()));
}

#[test]
fn a_cut_file_gives_its_whole_records_and_says_so() {
    let bytes = file();
    let end = encode_record(&Record::End).len();
    for (missing, whole) in [(1, 4), (end, 4), (end + 1, 3)] {
        let items: Vec<_> = Reader::new(&bytes[..bytes.len() - missing]).unwrap().collect();
        assert_eq!(items.len(), whole + 1);
        assert!(items[..whole].iter().all(Result::is_ok));
        let inside = matches!(items[whole], Err(RecordingError::CutOff { .. }));
        let between = matches!(items[whole], Err(RecordingError::Unfinished { .. }));
        assert_eq!((inside, between), (missing != end, missing == end));
    }
}

#[test]
fn a_recording_that_nobody_finished_has_all_but_an_end() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &header()).unwrap();
    records().iter().for_each(|record| writer.record(record));
    drop(writer);
    let items: Vec<_> = Reader::new(bytes.as_slice()).unwrap().collect();
    assert!(items[..4].iter().all(Result::is_ok));
    assert!(matches!(items[4..], [Err(RecordingError::Unfinished { .. })]), "{items:?}");
}

#[test]
fn nothing_is_read_behind_the_end_and_a_stream_needs_none() {
    let mut bytes = file();
    bytes.extend(b"anything");
    assert_eq!(Reader::new(bytes.as_slice()).unwrap().count(), 4);
    let mut stream = encode_header(&Header { has_end: false, ..header() });
    stream.extend(encode_record(&records()[0]));
    assert!(Reader::new(stream.as_slice()).unwrap().all(|record| record.is_ok()));
}

#[test]
fn a_changed_byte_is_found_and_what_stands_before_it_is_given() {
    let mut bytes = file();
    let last = bytes.len() - 1 - encode_record(&Record::End).len();
    bytes[last] ^= 1;
    let items: Vec<_> = Reader::new(bytes.as_slice()).unwrap().collect();
    assert!(items[..3].iter().all(Result::is_ok));
    assert!(items[3].as_ref().unwrap_err().to_string().contains("checksum"));
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let open = |bytes: &[u8]| Reader::new(bytes).map(|_| ()).unwrap_err().to_string();
    assert!(open(b"").contains("not a trace"));
    assert!(open(b"\x7fELF and so on and on").contains("not a trace"));
    for version in [b'1', b'8'] {
        let mut other = file();
        let ours = format!("\"version\":{VERSION}");
        let position = other.windows(ours.len()).position(|w| w == ours.as_bytes()).unwrap();
        other[position + ours.len() - 1] = version;
        assert!(open(&other).contains(&format!("version {}", version as char)));
    }
    let mut damaged = file();
    damaged[9] = 0xff;
    damaged[11] = 0xff;
    assert!(open(&damaged).contains("damaged"));
}

/// A block with these records, its head included.
fn block(records: &[Record]) -> Vec<u8> {
    let mut block = Block::default();
    records.iter().for_each(|record| block.record(record));
    let mut bytes = Vec::new();
    block.end(|mut block| {
        assert_eq!(block.records, records.len() as u64);
        bytes = block.whole().to_vec();
    });
    block.end(|_| panic!("it is empty again"));
    bytes
}

#[test]
fn events_of_one_message_are_one_block_with_one_stamp() {
    let event = |at, guest| {
        Record::Event(Stamped {
            at: Duration::from_micros(at),
            guest: GuestId(guest),
            event: TraceEvent::ProcReleased { proc: ProcId(1) },
        })
    };
    let mut sent = vec![event(1, 0), event(1, 0), event(1, 1), event(2, 1), event(2, 1)];
    sent.splice(4..4, records());
    let bytes = [encode_header(&header()), block(&sent), block(&sent), encode_record(&Record::End)].concat();
    let read: Vec<Record> = Reader::new(bytes.as_slice()).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(encoded(&read), encoded(&[sent.clone(), sent].concat()));
    let added =
        |events: &[Record], more: Record| block(&[events, &[more]].concat()).len() - block(events).len();
    let one = [event(1_700, 0)];
    assert_eq!(added(&one, event(1_700, 0)) + 13, added(&one, event(1_701, 0)), "a stamp of 13 bytes");
}

#[test]
fn a_block_tells_when_it_is_full_and_keeps_no_more_memory_than_it_needs() {
    let mut block = Block::default();
    let payload = TransactionRecord { payload: vec![7; 1 << 20], ..Default::default() };
    block.event(Duration::ZERO, GuestId(0), &TraceEvent::ProcReleased { proc: ProcId(1) });
    assert!(!block.is_full());
    block.event(Duration::ZERO, GuestId(0), &TraceEvent::Transaction(payload));
    assert!(block.is_full());
    block.end(|mut block| assert!(block.records == 2 && block.whole().len() > 1 << 20));
    assert!(!block.is_full() && block.capacity() <= 64 << 10);
}

#[test]
fn an_event_without_a_time_is_damage() {
    let mut bytes = encode_header(&header());
    let whole = block(&records()[1..2]);
    // Without the stamp: its tag, eight bytes of nanoseconds, four of the guest.
    let stored = [&[0], &whole[9 + 13..]].concat();
    bytes.extend((stored.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&stored).to_le_bytes());
    bytes.extend(stored);
    let items: Vec<_> = Reader::new(bytes.as_slice()).unwrap().collect();
    assert!(items[0].as_ref().unwrap_err().to_string().contains("no time"), "{items:?}");
}

#[test]
fn a_full_disk_is_told_at_the_end() {
    let mut writer = Writer::new(File::options().write(true).open("/dev/full").unwrap(), &header()).unwrap();
    records().iter().for_each(|record| writer.record(record));
    assert!(matches!(writer.finish(), Err(RecordingError::Write(_))));
}

proptest! {
    /// Whatever is done to a file: no panic, and the records before the damage are what they were.
    #[test]
    fn damage_costs_no_more_than_what_follows_it(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = file();
        let mut bytes = whole.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let same = bytes.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        if let Ok(reader) = Reader::new(bytes.as_slice()) {
            let items: Vec<_> = reader.collect();
            prop_assert!(items.iter().rev().skip(1).all(Result::is_ok));
            let mut at = encode_header(&header()).len();
            for (record, item) in records().iter().zip(&items) {
                at += encode_record(record).len();
                if at <= same {
                    prop_assert_eq!(encode_record(item.as_ref().unwrap()), encode_record(record));
                }
            }
        }
    }

    /// Bytes of a guest or of an enemy in the place of a record.
    #[test]
    fn garbage_behind_a_header_is_judged(garbage in prop::collection::vec(any::<u8>(), 0..200), sum in any::<bool>()) {
        let mut bytes = encode_header(&header());
        bytes.extend((garbage.len() as u32).to_le_bytes());
        let checksum = if sum { crc32fast::hash(&garbage) } else { 7 };
        bytes.extend(checksum.to_le_bytes());
        bytes.extend(&garbage);
        let end = &encode_record(&Record::End)[8..];
        let of_end = &end[1..];
        let nothing = Reader::new(bytes.as_slice()).unwrap().count() == 0;
        prop_assert!(nothing || !(sum && garbage.starts_with(end)));
        prop_assert!(!nothing || garbage.windows(of_end.len()).any(|bytes| bytes == of_end));
    }
}
