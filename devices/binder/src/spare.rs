//! Memory of what is over, to be used again: with nearly every message a call begins or ends, and something is read.

use crate::arena::ThreadId;
use crate::ids::GuestId;
use crate::message::{Answer, Header};
use crate::thread::Call;

/// Pieces that are kept of a kind at most.
const PIECES: usize = 8;
/// Bytes of results that are kept at most.
const RESULT: usize = 256;
/// Bytes that the first item of a read makes room for: what most reads have, a transaction and a few words.
const USUAL_RESULT: usize = 96;

/// Calls, answers and results that nobody needs any more. What they say means nothing.
#[derive(Clone, Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes are what is kept")]
pub(crate) struct Spare {
    calls: Vec<Box<Call>>,
    answers: Vec<Box<Answer>>,
    results: Vec<Vec<u8>>,
}

impl Spare {
    /// A call is over.
    pub(crate) fn keep_call(&mut self, call: Box<Call>) {
        if self.calls.len() < PIECES && call.holds_nothing() {
            self.calls.push(call);
        }
    }

    /// A call that begins.
    pub(crate) fn call(&mut self, thread: ThreadId, guest: GuestId, header: &Header) -> Box<Call> {
        match self.calls.pop() {
            Some(mut call) => {
                call.begin(thread, guest, header);
                call
            }
            None => Box::new(Call::new(thread, guest, header)),
        }
    }

    /// An answer was handed on. Its result is gone, too.
    pub(crate) fn keep_answer(&mut self, answer: Box<Answer>) {
        if self.answers.len() < PIECES {
            self.answers.push(answer);
        }
    }

    /// An answer that says nothing yet.
    pub(crate) fn answer(&mut self) -> Box<Answer> {
        match self.answers.pop() {
            Some(mut answer) => {
                answer.clear();
                answer
            }
            None => Box::default(),
        }
    }

    /// What was read arrived.
    pub(crate) fn keep_result(&mut self, result: Vec<u8>) {
        if self.results.len() < PIECES && (1..=RESULT).contains(&result.capacity()) {
            self.results.push(result);
        }
    }

    /// Memory for what is read.
    pub(crate) fn result(&mut self) -> Vec<u8> {
        match self.results.pop() {
            Some(mut result) => {
                result.clear();
                result
            }
            None => Vec::with_capacity(USUAL_RESULT),
        }
    }
}
