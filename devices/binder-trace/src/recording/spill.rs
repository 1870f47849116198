//! Writing the recording of a guest that does not wait for the disk.
//!
//! Blocks go into a buffer that a thread empties into the file. What finds no room is left out and counted, and so is all
//! that comes then, until the buffer was emptied and the recorder begins anew ([`Spill::mend`]): a replay needs every
//! message, or the domain as it is after those that are missing.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use binder::GuestId;

use super::batch::Batch;
use super::block::Ended;
use super::{Lost, Record, RecordingError, Writer};

/// Bytes of blocks that wait, with those that are being written: so much memory a recording costs, and some 5,000 calls of
/// a few bytes.
pub const ROOM: usize = 8 << 20;

/// How long what is there waits at most: who follows the file sees it then.
const FLUSH: Duration = Duration::from_millis(200);

/// A recording that takes blocks at once or not at all.
pub struct Spill {
    shared: Arc<Shared>,
    /// Until it is told to end.
    thread: Option<JoinHandle<Result<(), RecordingError>>>,
    /// Bytes of blocks that wait, at most.
    room: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do for the thread, or it has done something.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Batch,
    /// Nothing is taken.
    in_gap: bool,
    /// What was left out and not told.
    lost: BTreeMap<Option<GuestId>, Lost>,
    /// The batch is worth a turn of the thread.
    is_due: bool,
    /// How often everything was asked to be written, and how often it was.
    asked: u64,
    done: u64,
    end: Option<End>,
}

/// How the thread ends, when everything is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The run ended.
    Whole,
    /// It failed: its recording has no end.
    Cut,
}

impl Spill {
    /// Has a thread write with `writer` what is taken. Blocks of `room` bytes ([`ROOM`]) are kept at most, and one of any
    /// size where there is no other.
    pub fn new<W: Write + Send + 'static>(writer: Writer<W>, room: usize) -> io::Result<Spill> {
        let shared = Arc::<Shared>::default();
        // Half of it waits while the other half is written.
        let room = room / 2;
        let theirs = shared.clone();
        let empty = move || theirs.empty(writer, room);
        let thread = thread::Builder::new().name("trace-writer".into()).spawn(empty)?;
        Ok(Spill { shared, thread: Some(thread), room })
    }

    /// Takes a block, or leaves it out and says so.
    pub fn block(&self, block: &Ended<'_>) -> bool {
        let plain = block.plain();
        let mut state = self.shared.lock();
        let fits = state.waiting.is_empty() || state.waiting.size() + plain.padded.len() <= self.room;
        if state.in_gap || !fits {
            state.in_gap = true;
            let guest = block.holds.guest;
            state.lost.entry(guest).or_insert(Lost { guest, ..Lost::default() }).add(&block.holds);
            return false;
        }
        state.waiting.push(plain);
        if !state.is_due && state.waiting.size() >= self.room / 2 {
            state.is_due = true;
            self.shared.changed.notify_all();
        }
        true
    }

    /// Whether blocks are left out that there would be room for again.
    pub fn can_mend(&self) -> bool {
        let state = self.shared.lock();
        state.in_gap && state.waiting.is_empty()
    }

    /// Takes blocks again, if there is room, and tells what was left out. The first block has to tell that, and what is to
    /// be known to read on.
    pub fn mend(&self) -> Option<Vec<Lost>> {
        let mut state = self.shared.lock();
        let can_mend = state.in_gap && state.waiting.is_empty();
        can_mend.then(|| {
            state.in_gap = false;
            state.take_lost()
        })
    }

    /// Waits until everything is in the file that was taken, with what was left out, but not longer than `limit`.
    pub fn save(&self, limit: Duration) {
        let mut state = self.shared.lock();
        state.asked += 1;
        let asked = state.asked;
        self.shared.changed.notify_all();
        let unsaved = |state: &mut State| state.done < asked && state.end.is_none();
        // Late or not, there is nothing to be done about it.
        let _ = self.shared.changed.wait_timeout_while(state, limit, unsaved);
    }

    /// Writes everything, and that nothing follows, and tells of the first error there was. Takes nothing after that.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        self.end(End::Whole)
    }

    fn end(&mut self, end: End) -> Result<(), RecordingError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let mut state = self.shared.lock();
        state.end = Some(end);
        state.in_gap = true;
        drop(state);
        self.shared.changed.notify_all();
        let panicked = || Err(RecordingError::Write(io::Error::other("the thread that writes it failed")));
        thread.join().unwrap_or_else(|_| panicked())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // Whoever wants to know calls `finish`.
        let _ = self.end(End::Cut);
    }
}

impl State {
    fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost).into_values().collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the buffer into the file, until it is told to end.
    fn empty<W: Write>(&self, mut writer: Writer<W>, kept: usize) -> Result<(), RecordingError> {
        let mut batch = Batch::default();
        loop {
            let idle = |state: &mut State| !state.is_due && state.asked == state.done && state.end.is_none();
            let waited = self.changed.wait_timeout_while(self.lock(), FLUSH, idle);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.is_due = false;
            std::mem::swap(&mut state.waiting, &mut batch);
            let (asked, end) = (state.asked, state.end);
            let is_last_word = end.is_some() || asked != state.done;
            let lost = if is_last_word { state.take_lost() } else { Vec::new() };
            drop(state);
            if batch.is_empty() && !is_last_word {
                continue;
            }
            batch.drain(kept, |block| writer.plain(block));
            lost.into_iter().for_each(|lost| writer.record(&Record::Lost(lost)));
            match end {
                Some(End::Whole) => return writer.finish(),
                Some(End::Cut) => {
                    writer.flush();
                    return Ok(());
                }
                None => writer.flush(),
            }
            self.lock().done = asked;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Block, Header, Reader, VERSION};
    use binder::{ProcId, trace::TraceEvent};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// More than any test takes.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A file on a disk that writes when it is told to; told for the last time, always.
    struct Slow {
        file: Arc<Mutex<Vec<u8>>>,
        told: Receiver<()>,
        began: Sender<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            let _ = self.told.recv();
            self.file.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Bytes = Arc<Mutex<Vec<u8>>>;

    fn slow(room: usize) -> (Spill, Bytes, Sender<()>, Receiver<()>) {
        let file = Bytes::default();
        let (tell, told) = channel();
        let (began, begins) = channel();
        let out = Slow { file: Arc::clone(&file), told, began };
        let header = Header { version: VERSION, has_end: true, ..Header::default() };
        let spill = Spill::new(Writer::new(out, &header).unwrap(), room).unwrap();
        (spill, file, tell, begins)
    }

    fn event(spill: &Spill, proc: u32) -> bool {
        let mut block = Block::default();
        block.event(Duration::ZERO, GuestId(proc % 2), &TraceEvent::ProcReleased { proc: ProcId(proc) });
        let mut taken = false;
        block.end(|block| taken = spill.block(&block));
        taken
    }

    fn read(file: &Mutex<Vec<u8>>) -> Vec<Record> {
        let bytes = file.lock().unwrap().clone();
        Reader::new(bytes.as_slice()).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn procs(records: &[Record]) -> Vec<u32> {
        let proc = |record: &Record| match record {
            Record::Event(event) => match event.event {
                TraceEvent::ProcReleased { proc } => Some(proc.0),
                _ => None,
            },
            _ => None,
        };
        records.iter().filter_map(proc).collect()
    }

    #[test]
    fn what_finds_no_room_is_left_out_counted_and_told() {
        let (mut spill, file, tell, begins) = slow(4 << 10);
        assert!(event(&spill, 0));
        // The thread has that one and sits in its write.
        begins.recv_timeout(LIMIT).unwrap();
        let taken: Vec<u32> = (1..).take_while(|proc| event(&spill, *proc)).collect();
        assert!(taken.len() > 10, "{}", taken.len());
        let left_out = taken.len() as u32 + 1..taken.len() as u32 + 10;
        // One was left out already. Nothing is taken again by itself.
        assert!(left_out.clone().skip(1).all(|proc| !event(&spill, proc)));
        assert!(!spill.can_mend() && spill.mend().is_none());
        drop(tell);
        let until = std::time::Instant::now() + LIMIT;
        while !spill.can_mend() {
            assert!(std::time::Instant::now() < until, "the buffer was not emptied");
            thread::sleep(Duration::from_millis(1));
            assert!(!event(&spill, 1), "nothing is taken before it is mended");
        }
        let lost = spill.mend().unwrap();
        assert!(!spill.can_mend());
        assert_eq!(lost.iter().map(|lost| lost.guest.unwrap().0).collect::<Vec<_>>(), [0, 1]);
        assert!(lost.iter().map(|lost| lost.events).sum::<u64>() >= 9 && lost[0].events >= 4);
        assert!(event(&spill, 1000));
        spill.finish().unwrap();
        assert!(!event(&spill, 1001), "it is over");
        let read = read(&file);
        assert_eq!(procs(&read), [&[0][..], &taken, &[1000]].concat());
    }

    #[test]
    fn what_is_missing_at_the_end_is_told_there() {
        let (mut spill, file, tell, begins) = slow(4 << 10);
        event(&spill, 0);
        begins.recv_timeout(LIMIT).unwrap();
        let taken = (2..).step_by(2).take_while(|proc| event(&spill, *proc)).count();
        drop(tell);
        spill.save(LIMIT);
        let records = procs(&read_unfinished(&file));
        assert_eq!(records.len(), 1 + taken, "saved, and not finished");
        spill.finish().unwrap();
        let read = read(&file);
        let lost = Lost { guest: Some(GuestId(0)), messages: 0, events: 1 };
        assert!(matches!(read.last(), Some(Record::Lost(last)) if *last == lost), "{:?}", read.last());
    }

    fn read_unfinished(file: &Mutex<Vec<u8>>) -> Vec<Record> {
        let bytes = file.lock().unwrap().clone();
        Reader::new(bytes.as_slice()).unwrap().map_while(Result::ok).collect()
    }

    #[test]
    fn a_block_of_any_size_is_taken_where_there_is_no_other() {
        let (mut spill, file, tell, _begins) = slow(64);
        drop(tell);
        assert!(event(&spill, 5));
        spill.finish().unwrap();
        assert_eq!(procs(&read(&file)), [5]);
    }

    #[test]
    fn an_error_is_told_at_the_end_and_a_failed_run_leaves_no_end() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let header = Header { version: VERSION, has_end: true, ..Header::default() };
        let mut spill = Spill::new(Writer::new(full, &header).unwrap(), ROOM).unwrap();
        assert!(event(&spill, 0));
        spill.save(LIMIT);
        assert!(matches!(spill.finish(), Err(RecordingError::Write(_))));
        let (spill, file, tell, _begins) = slow(ROOM);
        drop(tell);
        event(&spill, 3);
        drop(spill);
        let bytes = file.lock().unwrap().clone();
        let last = Reader::new(bytes.as_slice()).unwrap().last();
        assert!(matches!(last, Some(Err(RecordingError::Unfinished { .. }))), "{last:?}");
        assert_eq!(procs(&read_unfinished(&file)), [3]);
    }
}
