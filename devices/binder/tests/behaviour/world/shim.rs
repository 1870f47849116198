//! What the core asks of the shim, and what it wakes.

use binder::*;

use super::{GUEST, OTHER, Out, Th, World};

impl World {
    pub(super) fn act(&mut self, th: Th, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::NiceSet(nice) => {
                    self.nice.insert(th, nice);
                }
                Action::NiceRaise(nice) => {
                    let now = self.nice.entry(th).or_default();
                    *now = nice.min(*now);
                }
                Action::Schedule { wanted, .. } => {
                    self.policy.insert(th, wanted.policy);
                    self.nice.insert(th, wanted.value);
                }
                Action::CloseFd(fd) => {
                    self.procs.get_mut(&th.proc).unwrap().fds.remove(&fd).expect("an open descriptor");
                }
                Action::Fput(token) => {
                    self.tokens.remove(&token).expect("a token");
                }
            }
        }
    }

    pub fn supply(&mut self, th: Th, need: &Need) -> NeedResult {
        self.asked.push(need.kind());
        match need {
            Need::Data { address, length } => {
                let range = self.range(th.proc, *address, *length);
                NeedResult { error: Errno::OK, outcome: Outcome::Data(range) }
            }
            Need::Pages { proc, slots } => {
                if let Some(error) = self.page_error {
                    return NeedResult { error, outcome: Outcome::None };
                }
                let mut pfns = Vec::new();
                for slot in slots {
                    let process = self.procs.get_mut(proc).unwrap();
                    let pfn = *process.slots.entry(*slot).or_insert_with(|| self.free_pages.pop().unwrap());
                    pfns.push(pfn);
                }
                NeedResult { error: Errno::OK, outcome: Outcome::Pages(pfns) }
            }
            Need::Files { fds, .. } => {
                let mut tokens = Vec::new();
                let mut error = Errno::OK;
                for fd in fds {
                    let file = self.procs[&th.proc].fds.get(fd).copied();
                    match (file, self.file_error) {
                        (Some(_), Some(refused)) => {
                            error = refused;
                            break;
                        }
                        (Some(file), None) => tokens.push(self.token(file)),
                        (None, _) => {
                            error = Errno::EBADF;
                            break;
                        }
                    }
                }
                NeedResult { error, outcome: Outcome::Files(tokens) }
            }
            Need::Lsm { .. } => NeedResult { error: self.lsm_error, outcome: Outcome::None },
        }
    }

    pub(super) fn token(&mut self, file: u32) -> Token {
        self.next_token += 1;
        self.tokens.insert(Token(self.next_token), file);
        Token(self.next_token)
    }

    pub fn install(&mut self, th: Th, tokens: &[Token]) -> NeedResult {
        let process = self.procs.get_mut(&th.proc).unwrap();
        let free: Vec<u32> = (0..).filter(|fd| !process.fds.contains_key(fd)).take(tokens.len()).collect();
        let full = process.fds.len() + tokens.len() > process.max_fds;
        if let Some(error) = self.install_error.or(full.then_some(Errno(-24))) {
            return NeedResult { error, outcome: Outcome::None };
        }
        for (fd, token) in free.iter().zip(tokens) {
            let file = self.tokens.remove(token).expect("a token");
            process.fds.insert(*fd, file);
        }
        NeedResult { error: Errno::OK, outcome: Outcome::Fds(free) }
    }

    // --- events ---

    /// Takes every event there is, fetches and installs where asked.
    pub fn events(&mut self) {
        while let Some(event) = self.domain.next_event(GUEST).or_else(|| self.domain.next_event(OTHER)) {
            let th = Th { proc: event.proc, tid: event.tid };
            self.idle_pages = event.idle_pages;
            match event.kind {
                EventKind::Poll => self.polled.push(th),
                _ if event.fetch => {
                    let answer = self.send(th, Body::Fetch);
                    let out = self.pending.remove(&th).unwrap_or_default();
                    let out = self.follow(th, &[], answer, out);
                    self.keep(th, out);
                }
                EventKind::Install { tokens } => {
                    let out = self.pending.remove(&th).unwrap_or_default();
                    if self.hold {
                        self.pending.insert(th, out);
                        continue;
                    }
                    let result = self.install(th, &tokens);
                    let answer = self.send(th, Body::Continue(Continue::Install(result)));
                    let out = self.follow(th, &[], answer, out);
                    self.keep(th, out);
                }
                EventKind::Done { errno, read_consumed, result, first_word, creds, nice } => {
                    self.act(th, nice.as_slice());
                    let result_position = read_consumed - result.len() as u64;
                    let answer = Answer {
                        errno,
                        read_consumed,
                        result,
                        result_position,
                        first_word,
                        creds,
                        ..Answer::default()
                    };
                    let out = self.pending.remove(&th).unwrap_or_default();
                    let out = self.follow(th, &[], answer, out);
                    self.keep(th, out);
                }
            }
        }
    }

    pub(super) fn keep(&mut self, th: Th, out: Out) {
        if !out.parked {
            self.done.insert(th, out);
        }
    }

    /// The end of an ioctl that had parked.
    pub fn woken(&mut self, th: Th) -> Out {
        self.done.remove(&th).unwrap_or_else(|| panic!("{th:?} still sleeps"))
    }

    pub fn sleeps(&self, th: Th) -> bool {
        !self.done.contains_key(&th)
    }
}
