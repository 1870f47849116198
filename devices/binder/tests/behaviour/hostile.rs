//! Random guests: never a panic, and nothing is left when they are gone.

use binder::protocol::{Command, TransactionData, ioctl, object};
use binder::*;
use proptest::prelude::*;

use crate::payloads::*;
use crate::world::*;

/// A step of a guest that keeps to the shim's protocol but does nonsense with binder.
#[derive(Clone, Debug)]
pub enum Act {
    Write { who: usize, commands: Vec<Command>, read: bool },
    Call { who: usize, handle: u32, flags: u32, objects: Vec<(u32, u32, u64)>, size: usize },
    Reply { who: usize, objects: Vec<(u32, u32, u64)> },
    Free { who: usize, slot: u64 },
    Ioctl { who: usize, cmd: u32, arg: Vec<u8> },
    Signal { who: usize },
    Note { who: usize, body: Body },
    Die { who: usize },
}

fn small() -> impl Strategy<Value = u32> {
    0..5u32
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        small().prop_map(|handle| Command::Increfs { handle }),
        small().prop_map(|handle| Command::Acquire { handle }),
        small().prop_map(|handle| Command::Release { handle }),
        small().prop_map(|handle| Command::Decrefs { handle }),
        (0..4u64, 0..2u64).prop_map(|(ptr, cookie)| Command::IncrefsDone { ptr, cookie }),
        (0..4u64, 0..2u64).prop_map(|(ptr, cookie)| Command::AcquireDone { ptr, cookie }),
        Just(Command::RegisterLooper),
        Just(Command::EnterLooper),
        Just(Command::ExitLooper),
        (small(), 0..3u64).prop_map(|(handle, cookie)| Command::RequestDeathNotification { handle, cookie }),
        (small(), 0..3u64).prop_map(|(handle, cookie)| Command::ClearDeathNotification { handle, cookie }),
        (0..3u64).prop_map(|cookie| Command::DeadBinderDone { cookie }),
        (small(), 0..3u64).prop_map(|(handle, cookie)| Command::RequestFreezeNotification { handle, cookie }),
        (small(), 0..3u64).prop_map(|(handle, cookie)| Command::ClearFreezeNotification { handle, cookie }),
        (0..3u64).prop_map(|cookie| Command::FreezeNotificationDone { cookie }),
    ]
}

fn objects() -> impl Strategy<Value = Vec<(u32, u32, u64)>> {
    let kind = prop_oneof![
        Just(object::BINDER),
        Just(object::WEAK_BINDER),
        Just(object::HANDLE),
        Just(object::WEAK_HANDLE),
        Just(object::FD),
        Just(object::PTR),
    ];
    prop::collection::vec((kind, prop_oneof![Just(0), Just(0x100), Just(0x1000)], 0..4u64), 0..4)
}

pub fn act() -> impl Strategy<Value = Act> {
    let who = 0..6usize;
    prop_oneof![
        4 => (who.clone(), prop::collection::vec(command(), 0..4), any::<bool>())
            .prop_map(|(who, commands, read)| Act::Write { who, commands, read }),
        6 => (who.clone(), small(), prop_oneof![Just(0), Just(1), Just(0x10), Just(0x61)], objects(), 0..9000usize)
            .prop_map(|(who, handle, flags, objects, size)| Act::Call { who, handle, flags, objects, size }),
        3 => (who.clone(), objects()).prop_map(|(who, objects)| Act::Reply { who, objects }),
        2 => (who.clone(), 0..8u64).prop_map(|(who, slot)| Act::Free { who, slot }),
        2 => (who.clone(), ioctl_number(), prop::collection::vec(any::<u8>(), 0..48))
            .prop_map(|(who, cmd, arg)| Act::Ioctl { who, cmd, arg }),
        1 => who.clone().prop_map(|who| Act::Signal { who }),
        1 => (who.clone(), prop_oneof![Just(Body::Flush), Just(Body::Unmap), Just(Body::Trim { max: 3 }), Just(Body::Timeout)])
            .prop_map(|(who, body)| Act::Note { who, body }),
        1 => who.prop_map(|who| Act::Die { who }),
    ]
}

fn ioctl_number() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(ioctl::SET_CONTEXT_MGR),
        Just(ioctl::SET_CONTEXT_MGR_EXT),
        Just(ioctl::SET_MAX_THREADS),
        Just(ioctl::THREAD_EXIT),
        Just(ioctl::FREEZE),
        Just(ioctl::GET_FROZEN_INFO),
        Just(ioctl::GET_NODE_DEBUG_INFO),
        Just(ioctl::GET_NODE_INFO_FOR_REF),
        Just(ioctl::GET_EXTENDED_ERROR),
        any::<u32>(),
    ]
}

fn parcel(objects: &[(u32, u32, u64)], size: usize) -> (Vec<u8>, Vec<u64>) {
    let mut data = Vec::new();
    let mut offsets = Vec::new();
    for (kind, flags, low) in objects {
        offsets.push(data.len() as u64);
        data.extend(flat_object(*kind, *flags, *low, 1));
    }
    data.resize(data.len().max(size), 0x55);
    (data, offsets)
}

/// A world after some acts.
pub fn acted(acts: Vec<Act>, lazy: bool, install_error: bool) -> World {
    acted_in(World::new(), acts, lazy, install_error)
}

/// The same in a world that was made ready.
pub fn acted_in(mut w: World, acts: Vec<Act>, lazy: bool, install_error: bool) -> World {
    w.lazy = lazy;
    w.install_error = install_error.then_some(Errno(-24));
    let mut threads = Vec::new();
    for pid in [10, 20, 30] {
        let first = w.process(pid);
        w.procs.get_mut(&first.proc).unwrap().fds.extend([(0, 700), (1, 701)]);
        threads.push(first);
        threads.push(w.looper(first.proc, pid + 1));
    }
    w.become_manager(threads[0]);
    for act in acts {
        let th = |who: usize| threads[who % threads.len()];
        match act {
            Act::Write { who, commands, read } => {
                w.write_read(th(who), &commands, if read { READ_SIZE } else { 0 });
            }
            Act::Call { who, handle, flags, objects, size } if w.procs.contains_key(&th(who).proc) => {
                let (data, offsets) = parcel(&objects, size);
                let command = w.call_command(th(who), handle, flags, &data, &offsets);
                w.write_read(th(who), &[command], READ_SIZE);
            }
            Act::Reply { who, objects } if w.procs.contains_key(&th(who).proc) => {
                let (data, offsets) = parcel(&objects, 0);
                let payload: TransactionData = w.payload(th(who), &data, &offsets);
                w.write_read(th(who), &[Command::ReplySg(payload, 16)], READ_SIZE);
            }
            Act::Free { who, slot } => {
                w.write_read(th(who), &[Command::FreeBuffer { data: MAPPING + slot * 8 }], 0);
            }
            Act::Ioctl { who, cmd, arg } => {
                w.ioctl(th(who), cmd, &arg);
            }
            Act::Signal { who } => {
                w.signal(th(who));
            }
            Act::Note { who, body } => {
                let answer = w.send(th(who), body);
                if let Some(process) = w.procs.get_mut(&th(who).proc) {
                    process.slots.retain(|slot, _| !answer.slots.contains(slot));
                }
                w.events();
            }
            Act::Die { who } if w.procs.contains_key(&th(who).proc) => w.release(th(who).proc),
            _ => {}
        }
        w.events();
    }
    w
}

/// Any message at all, from any guest, with ranges and results made up.
pub fn message() -> impl Strategy<Value = Message> {
    let range = (
        any::<u64>(),
        any::<u64>(),
        0..64u64,
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 0..64),
        0..5000u64,
    )
        .prop_map(|(address, length, readable, fault, bytes, pfn)| {
            let data = match pfn % 3 {
                0 => RangeData::None,
                1 => RangeData::Inline(bytes),
                _ => RangeData::Pages(vec![Pfn(pfn)]),
            };
            Range { address: address % 8192, length: length % 9000, readable: readable * 100, fault, data }
        });
    let raw = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        command().prop_map(|command| encoded(&command)),
        (any::<[u64; 3]>(), small(), 0..3u64).prop_map(|(fields, handle, offsets)| {
            let data = TransactionData {
                target: u64::from(handle),
                data_size: fields[0] % 9000,
                offsets_size: offsets * 8,
                data: fields[1] % 8192,
                offsets: fields[2] % 8192,
                ..TransactionData::default()
            };
            encoded(&Command::TransactionSg(data, 64))
        }),
    ];
    let chunk = (raw, prop::collection::vec(range.clone(), 0..4), 0..3u8).prop_map(|(bytes, ranges, end)| {
        let end = [ChunkEnd::Last, ChunkEnd::Cut, ChunkEnd::Unreadable][usize::from(end)];
        Chunk { position: 0, bytes, end, ranges }
    });
    let outcome = prop_oneof![
        Just(Outcome::None),
        prop::collection::vec(0..5000u64, 0..4)
            .prop_map(|pfns| Outcome::Pages(pfns.into_iter().map(Pfn).collect())),
        Just(Outcome::Fds(vec![1])),
        range.prop_map(Outcome::Data),
    ];
    let result = (outcome, prop_oneof![Just(0), Just(-12)])
        .prop_map(|(outcome, error)| NeedResult { error: Errno(error), outcome });
    let ioctl = (chunk.clone(), prop_oneof![Just(ioctl::WRITE_READ), ioctl_number()], 0..300u64).prop_map(
        |(chunk, cmd, read)| {
            let fields = [chunk.bytes.len() as u64, 0, 0, read, 0, 0];
            let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            Body::Ioctl(Ioctl { cmd, arg, chunk, ..Ioctl::default() })
        },
    );
    let body = prop_oneof![
        1 => Just(Body::Open(Open { context: b"binder".to_vec(), tgid: Pid(1), ..Open::default() })),
        12 => ioctl,
        2 => chunk.prop_map(|chunk| Body::Continue(Continue::More(chunk))),
        6 => prop::collection::vec(result.clone(), 1..4).prop_map(|results| Body::Continue(Continue::Needs(results))),
        1 => result.prop_map(|result| Body::Continue(Continue::Install(result))),
        1 => Just(Body::Cancel),
        1 => Just(Body::Timeout),
        1 => Just(Body::Fetch),
        1 => Just(Body::Poll),
        1 => Just(Body::Trim { max: 9 }),
        1 => Just(Body::ReadFault { offset: 0 }),
        2 => Just(Body::Mmap { address: 0x10000, length: 0x4000 }),
        1 => (prop_oneof![Just(0x10000), Just(!0xfff), 0..0x3000u64], prop_oneof![Just(0), Just(u64::MAX), 1..0x3000u64])
            .prop_map(|(address, length)| Body::Mmap { address, length }),
        1 => Just(Body::Unmap),
        1 => Just(Body::Flush),
        1 => Just(Body::Release),
    ];
    (0..4u32, 0..3u32, 0..2u64, any::<[bool; 3]>(), body).prop_map(|(proc, tid, seq, flags, body)| {
        let [nonblock, foreign, read_bad] = flags;
        let header =
            Header { proc, tid: Tid(tid), seq: Seq(seq), nonblock, foreign, read_bad, ..Header::default() };
        Message { header, body }
    })
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    bytes
}

proptest! {

    /// covers: B491 to B507
    #[test]
    fn careless_programs_leave_nothing(
        acts in prop::collection::vec(act(), 0..60),
        lazy in any::<bool>(),
        install_error in any::<bool>(),
    ) {
        acted(acts, lazy, install_error).finish();
    }

    /// covers: 2.24, 37
    #[test]
    fn a_hostile_shim_leaves_nothing(messages in prop::collection::vec(message(), 0..80)) {
        let mut w = World::new();
        for (index, message) in messages.into_iter().enumerate() {
            let rams = Rams(&w.ram);
            w.domain = reload(&w.domain, &Limits::default());
            w.domain.handle(&rams, GUEST, &message, &mut NoTrace);
            if index % 3 == 0 {
                while w.domain.has_events(GUEST) {
                    prop_assert!(w.domain.next_event(GUEST).is_some());
                }
                prop_assert!(w.domain.next_event(GUEST).is_none());
            }
        }
        w.domain.reset(GUEST, &mut NoTrace);
        prop_assert_eq!(w.census(), Census::default());
    }
}
