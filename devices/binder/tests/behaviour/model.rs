//! Reference counts against an executable model: two processes that hold a handle each on one object do
//! anything with their counts and ask for strong ones; two threads of the owner read and answer whenever they
//! like. Everybody must hear what the model says.

use std::collections::VecDeque;

use binder::Errno;
use binder::protocol::{Command, Return, ioctl};
use proptest::prelude::*;

use crate::trio::*;
use crate::world::*;

/// One step. The number chooses the holder, or the owner's thread.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Increfs(usize),
    Acquire(usize),
    Release(usize),
    Decrefs(usize),
    /// A thread of the holder asks for a strong count, and waits.
    Attempt(usize),
    /// That thread ends, waiting or not.
    AskerEnds(usize),
    /// The owner reads.
    Read(usize),
    /// The owner answers what it was asked last.
    Answer(usize, bool),
    /// A thread of the owner ends, asked or not; another one takes its place.
    OwnerEnds(usize),
}

pub fn step() -> impl Strategy<Value = Step> {
    let two = 0usize..2;
    prop_oneof![
        2 => two.clone().prop_map(Step::Increfs),
        2 => two.clone().prop_map(Step::Acquire),
        4 => two.clone().prop_map(Step::Release),
        2 => two.clone().prop_map(Step::Decrefs),
        4 => two.clone().prop_map(Step::Attempt),
        1 => two.clone().prop_map(Step::AskerEnds),
        6 => two.clone().prop_map(Step::Read),
        4 => (two.clone(), any::<bool>()).prop_map(|(thread, yes)| Step::Answer(thread, yes)),
        1 => two.prop_map(Step::OwnerEnds),
    ]
}

/// A handle's counts. Without any it is gone, and never comes back here.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    strong: u32,
    weak: u32,
}

impl Counts {
    fn exists(self) -> bool {
        self.strong + self.weak > 0
    }

    /// B257, B259: misuse has no effect.
    fn apply(&mut self, step: Step) {
        match step {
            Step::Increfs(_) if self.exists() => self.weak += 1,
            // A strong count is got by handle only where there is one.
            Step::Acquire(_) if self.strong > 0 => self.strong += 1,
            Step::Release(_) => self.strong = self.strong.saturating_sub(1),
            Step::Decrefs(_) => self.weak = self.weak.saturating_sub(1),
            _ => {}
        }
    }
}

/// A question that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Ask {
    holder: usize,
    /// Its thread is there.
    waits: bool,
}

/// Work for the owner.
#[derive(Clone, Copy, Debug)]
enum Item {
    /// It is to be told about its counts.
    Node,
    /// By number.
    Ask(usize),
}

/// Two holders, and what the owner was told and asked.
#[derive(Default)]
struct Model {
    holders: [Counts; 2],
    told_strong: bool,
    told_weak: bool,
    /// Counts that the owner took and was told to take.
    surplus: u32,
    /// What was asked and not answered, by number.
    asks: Vec<Option<Ask>>,
    /// Each thread of the owner: what it was asked.
    asked: [Option<usize>; 2],
    /// Work of each of these threads.
    own: [VecDeque<Item>; 2],
    /// Work for any of them.
    queue: VecDeque<Item>,
    /// What askers were told in this step.
    results: [Option<i32>; 2],
}

impl Model {
    fn strong(&self) -> bool {
        self.holders.iter().any(|counts| counts.strong > 0)
    }

    /// A question keeps the owner's pointer good.
    fn weak(&self) -> bool {
        self.holders.iter().any(|counts| counts.exists()) || self.asks.iter().any(Option::is_some)
    }

    /// Whether the object is there for the driver: what nobody holds and the owner knows is gone.
    fn exists(&self) -> bool {
        self.told_strong || self.told_weak
    }

    /// The owner is to look at the counts.
    fn queue_node(&mut self) {
        if self.exists() && !self.is_queued() {
            self.queue.push_back(Item::Node);
        }
    }

    fn is_queued(&self) -> bool {
        let mut all = self.own.iter().chain([&self.queue]).flatten();
        all.any(|item| matches!(item, Item::Node))
    }

    fn count(&mut self, holder: usize, step: Step) {
        let (strong, weak) = (self.strong(), self.weak());
        self.holders[holder].apply(step);
        if (strong && !self.strong()) || (weak && !self.weak()) {
            self.queue_node();
        }
    }

    /// Whether nobody need be asked.
    fn grants(&self, holder: usize) -> bool {
        self.holders[holder].exists() && (self.strong() || self.told_strong)
    }

    /// True: the asker waits.
    fn attempt(&mut self, holder: usize) -> bool {
        if self.grants(holder) {
            self.holders[holder].strong += 1;
            self.results[holder] = Some(1);
        } else if self.holders[holder].exists() {
            self.asks.push(Some(Ask { holder, waits: true }));
            self.queue.push_back(Item::Ask(self.asks.len() - 1));
            return true;
        } else {
            self.results[holder] = Some(0);
        }
        false
    }

    fn waiting(&self, holder: usize) -> Option<usize> {
        self.asks.iter().position(|ask| ask.is_some_and(|ask| ask.waits && ask.holder == holder))
    }

    fn asker_ends(&mut self, holder: usize) {
        if let Some(ask) = self.waiting(holder).and_then(|index| self.asks[index].as_mut()) {
            ask.waits = false;
        }
    }

    /// A question is over.
    fn end(&mut self, index: usize, granted: bool) {
        let Some(ask) = self.asks[index] else { return };
        let granted = granted && ask.waits && self.holders[ask.holder].exists();
        if granted {
            self.holders[ask.holder].strong += 1;
        }
        if ask.waits {
            self.results[ask.holder] = Some(granted.into());
        }
        self.asks[index] = None;
        if !self.weak() {
            self.queue_node();
        }
    }

    /// What the owner is told when it looks at the counts now (B235).
    fn tell(&mut self) -> Vec<Return> {
        let (ptr, cookie) = (PTR, PTR + 1);
        let (strong, weak) = (self.strong(), self.weak());
        let mut told = Vec::new();
        if self.told_strong && !strong {
            told.push(Return::Release { ptr, cookie });
        }
        if self.told_weak && !weak {
            told.push(Return::Decrefs { ptr, cookie });
        }
        (self.told_strong, self.told_weak) = (strong, weak);
        told
    }

    /// What a thread of the owner reads now.
    fn read(&mut self, thread: usize) -> Vec<Return> {
        let (ptr, cookie) = (PTR, PTR + 1);
        let mut told = Vec::new();
        loop {
            // B078: what a thread has itself comes first, and alone.
            let any = self.asked[thread].is_none() && self.own[thread].is_empty();
            let mut took = false;
            loop {
                let shared = if any { Some(&mut self.queue) } else { None };
                let own = self.own[thread].pop_front();
                let Some(item) = own.or_else(|| shared?.pop_front()) else { break };
                took = true;
                match item {
                    Item::Node if self.surplus > 0 => {
                        self.surplus -= 1;
                        told.push(Return::Release { ptr, cookie });
                        self.own[thread].push_back(Item::Node);
                    }
                    Item::Node => told.extend(self.tell()),
                    Item::Ask(index) => {
                        let Some(ask) = self.asks[index] else { continue };
                        if self.grants(ask.holder) {
                            self.end(index, true);
                        } else if !ask.waits || !self.holders[ask.holder].exists() {
                            self.end(index, false);
                        } else {
                            self.asked[thread] = Some(index);
                            told.push(Return::AttemptAcquire { priority: 0, ptr, cookie });
                            return told;
                        }
                    }
                }
            }
            if !told.is_empty() || !took {
                return told;
            }
        }
    }

    /// False: the thread was not asked.
    fn answer(&mut self, thread: usize, yes: bool) -> bool {
        let Some(index) = self.asked[thread].take() else { return false };
        if yes && std::mem::replace(&mut self.told_strong, true) {
            self.surplus += 1;
            if !self.is_queued() {
                self.own[thread].push_back(Item::Node);
            }
        }
        self.end(index, yes);
        if self.told_strong && !self.strong() {
            self.queue_node();
        }
        true
    }

    fn owner_ends(&mut self, thread: usize) {
        let left = std::mem::take(&mut self.own[thread]);
        if let Some(index) = self.asked[thread].take() {
            self.end(index, false);
        }
        if !left.is_empty() {
            self.queue_node();
        }
    }
}

/// Plays steps on the core and on the model.
pub fn played(steps: Vec<Step>) -> World {
    let mut world = World::new();
    world.domain.accept_attempts(GUEST, true);
    let Trio { mut w, manager, owner, client, handle } = trio_with(world, 0x100 | 0x7f);
    let others = w.census().refs - 2;
    let one = Counts { strong: 1, weak: 0 };
    let mut model = Model { holders: [one; 2], told_strong: true, told_weak: true, ..Model::default() };
    // The manager's handle on the object is its first.
    let sides = [(manager, 1), (client, handle)];
    let askers = [w.thread(manager.proc, 11), w.thread(client.proc, 31)];
    let owners = [owner, w.looper(owner.proc, 21)];
    for step in steps {
        match step {
            Step::Increfs(holder) | Step::Acquire(holder) | Step::Release(holder) | Step::Decrefs(holder) => {
                let (thread, handle) = sides[holder];
                let command = match step {
                    Step::Increfs(_) => Command::Increfs { handle },
                    Step::Acquire(_) => Command::Acquire { handle },
                    Step::Release(_) => Command::Release { handle },
                    _ => Command::Decrefs { handle },
                };
                assert_eq!(w.write(thread, &[command]).errno, 0);
                model.count(holder, step);
            }
            Step::Attempt(holder) if model.waiting(holder).is_none() => {
                let ask = Command::AttemptAcquire { priority: 0, handle: sides[holder].1 };
                let out = w.write_read(askers[holder], &[ask], READ_SIZE);
                let waits = model.attempt(holder);
                assert_eq!((out.errno, out.parked), (0, waits));
                if let Some(result) = model.results[holder].take() {
                    assert_eq!(out.returns, [Return::Noop, Return::AcquireResult(result)]);
                }
            }
            Step::Attempt(_) => {}
            Step::AskerEnds(holder) => {
                if model.waiting(holder).is_some() {
                    assert_eq!(w.signal(askers[holder]).errno, Errno::EINTR);
                }
                assert_eq!(w.ioctl(askers[holder], ioctl::THREAD_EXIT, &[0; 4]).0, 0);
                w.thread(askers[holder].proc, askers[holder].tid.0);
                model.asker_ends(holder);
            }
            Step::Read(thread) => {
                let (out, told) = (w.read_nonblock(owners[thread]), model.read(thread));
                if told.is_empty() {
                    assert_eq!((out.errno, out.returns), (-11, vec![]), "nothing is to be told");
                } else {
                    assert_eq!(out.returns[1..], told, "{out:?}");
                }
            }
            Step::Answer(thread, yes) => {
                let out = w.write(owners[thread], &[Command::AcquireResult(yes.into())]);
                let expected = if model.answer(thread, yes) { Errno::OK } else { Errno::EINVAL };
                assert_eq!(out.errno, expected.0);
            }
            Step::OwnerEnds(thread) => {
                let Th { proc, tid } = owners[thread];
                assert_eq!(w.ioctl(owners[thread], ioctl::THREAD_EXIT, &[0; 4]).0, 0);
                w.looper(proc, tid.0);
                model.owner_ends(thread);
            }
        }
        for (holder, result) in model.results.iter_mut().enumerate() {
            if let Some(result) = result.take() {
                assert_eq!(w.woken(askers[holder]).returns, [Return::Noop, Return::AcquireResult(result)]);
            }
        }
        let exist = model.holders.iter().filter(|counts| counts.exists()).count() as u32;
        assert_eq!(w.census().refs, others + exist, "after {step:?}: {:?}", model.holders);
        let asks = model.asks.iter().flatten().count() as u32;
        assert_eq!(w.census().transactions, asks, "after {step:?}");
    }
    w
}

proptest! {
    /// covers: B235, B242, B244, B254, B257, B259, B458
    #[test]
    fn owners_hear_what_the_model_says(steps in prop::collection::vec(step(), 0..120)) {
        played(steps).finish();
    }
}
