//! Reference counts against an executable model: two processes that hold a handle each on one object do
//! anything with their counts, the owner reads whenever it likes, and must hear what the model says.

use binder::protocol::{Command, Return};
use proptest::prelude::*;

use crate::trio::*;
use crate::world::*;

/// One step. The number chooses the holder.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Increfs(usize),
    Acquire(usize),
    Release(usize),
    Decrefs(usize),
    /// The owner reads.
    Read,
}

pub fn step() -> impl Strategy<Value = Step> {
    let holder = 0usize..2;
    prop_oneof![
        holder.clone().prop_map(Step::Increfs),
        holder.clone().prop_map(Step::Acquire),
        holder.clone().prop_map(Step::Release),
        holder.prop_map(Step::Decrefs),
        Just(Step::Read),
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

/// Two holders, and what the owner was told.
struct Model {
    holders: [Counts; 2],
    told_strong: bool,
    told_weak: bool,
}

impl Model {
    /// What the owner is told when it reads now (B235).
    fn read(&mut self) -> Vec<Return> {
        let (ptr, cookie) = (PTR, PTR + 1);
        let strong = self.holders.iter().any(|counts| counts.strong > 0);
        let weak = self.holders.iter().any(|counts| counts.exists());
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
}

/// Plays steps on the core and on the model.
pub fn played(steps: Vec<Step>) -> World {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let others = w.census().refs - 2;
    let one = Counts { strong: 1, weak: 0 };
    let mut model = Model { holders: [one; 2], told_strong: true, told_weak: true };
    // The manager's handle on the object is its first.
    let sides = [(manager, 1), (client, handle)];
    for step in steps {
        let (holder, command) = match step {
            Step::Increfs(holder) => (holder, Command::Increfs { handle: sides[holder].1 }),
            Step::Acquire(holder) => (holder, Command::Acquire { handle: sides[holder].1 }),
            Step::Release(holder) => (holder, Command::Release { handle: sides[holder].1 }),
            Step::Decrefs(holder) => (holder, Command::Decrefs { handle: sides[holder].1 }),
            Step::Read => {
                let (out, told) = (w.read_nonblock(owner), model.read());
                if told.is_empty() {
                    assert_eq!((out.errno, out.returns), (-11, vec![]), "nothing is to be told");
                } else {
                    assert_eq!(out.returns[1..], told, "{out:?}");
                }
                continue;
            }
        };
        assert_eq!(w.write(sides[holder].0, &[command]).errno, 0);
        model.holders[holder].apply(step);
        let exist = model.holders.iter().filter(|counts| counts.exists()).count() as u32;
        assert_eq!(w.census().refs, others + exist, "after {step:?}: {:?}", model.holders);
    }
    w
}

proptest! {
    /// covers: B235, B244, B254, B257, B259
    #[test]
    fn owners_hear_what_the_model_says(steps in prop::collection::vec(step(), 0..120)) {
        played(steps).finish();
    }
}
