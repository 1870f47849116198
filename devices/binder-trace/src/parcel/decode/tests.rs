use super::*;
use binder::DebugId;

const AIDL: &str = "package t;
    parcelable Point { int x; int y = 7; }
    parcelable Opaque;
    enum Level { LOW, HIGH }
    union Either { int number; String text; }
    interface IT {
        void all(int a, boolean b, long c, String s, @nullable String n, in byte[] bytes, in int[] ints,
            in Point p, in Level l, in Level[] ls, in Either e, IBinder binder, out int[] back, in List<String> names);
        int stop(int before, in Opaque o, int after);
        Point get(out Point other);
        void floats(float f, double d);
    }";

struct Parcel(Vec<u8>);

impl Parcel {
    fn word(mut self, word: i32) -> Parcel {
        self.0.extend(word.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Parcel {
        self = self.word(text.encode_utf16().count() as i32);
        self.0.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        self.pad()
    }

    fn raw(mut self, bytes: &[u8]) -> Parcel {
        self.0.extend(bytes);
        self.pad()
    }

    fn pad(mut self) -> Parcel {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

fn table() -> Table {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.aidl"), AIDL).unwrap();
    let mut table = Table::default();
    table.add(folder.path()).unwrap();
    table
}

fn decode(code: u32, parcel: &Parcel, recorded: usize, objects: &[ObjectRecord]) -> Decoded {
    let table = table();
    let found = table.method("t.IT", code, None).unwrap();
    let bytes = &parcel.0[..recorded.min(parcel.0.len())];
    let payload = Payload { bytes, total: parcel.0.len() as u64, objects };
    arguments(&table, &found, payload, 0, Layout::Eleven)
}

#[test]
fn every_type_that_is_known_is_read() {
    let parcel = Parcel(vec![]).word(-5).word(1).word(2).word(1).text("hi").word(-1);
    let parcel = parcel.word(3).raw(b"abc").word(2).word(10).word(11);
    let parcel = parcel.word(1).word(12).word(3).word(4);
    let parcel = parcel.word(1).word(2).raw(&[0, 1]);
    let parcel = parcel.word(1).word(1).text("either");
    let offset = parcel.0.len() as u64;
    let parcel = parcel.raw(&[0x85; 24]).word(12);
    let parcel = parcel.word(4).word(1).text("list");
    let object = SentObject::Handle { strong: true, handle: 3, node: Some(DebugId(9)) };
    let decoded = decode(1, &parcel, 4096, &[ObjectRecord { offset, object }]);
    assert_eq!(
        decoded.to_string(),
        "a=-5, b=true, c=4294967298, s=\"hi\", n=null, bytes=bytes[3] 616263, ints=[10, 11], p={x=3, y=4}, \
         l=HIGH(1), ls=bytes[2] 0001, e={text=\"either\"}, binder=binder(node 9), back=out[4], names=[\"list\"]"
    );
}

#[test]
fn the_first_unknown_type_ends_it_with_the_bytes() {
    let decoded = decode(2, &Parcel(vec![]).word(1).word(0x11223344).word(3), 4096, &[]);
    assert_eq!(decoded.to_string(), "before=1, <t.Opaque is not known; from byte 4: 44332211 03000000>");
}

#[test]
fn what_was_not_recorded_is_told_from_what_was_not_sent() {
    let parcel = Parcel(vec![]).word(1).word(0).word(3);
    assert_eq!(decode(4, &parcel, 4, &[]).rest.unwrap().why, Stop::Cut);
    assert_eq!(decode(4, &Parcel(vec![]).word(1).word(0), 99, &[]).rest.unwrap().why, Stop::End);
    assert!(matches!(decode(4, &parcel.word(4), 99, &[]).rest.unwrap().why, Stop::Wrong(_)));
}

#[test]
fn replies_have_a_status_and_then_values() {
    let table = table();
    let found = table.method("t.IT", 3, None).unwrap();
    let read = |parcel: Parcel| {
        let payload = Payload { bytes: &parcel.0, total: parcel.0.len() as u64, objects: &[] };
        let (exception, decoded) = reply(&table, &found, payload, Layout::Eleven);
        exception.map_or(decoded.to_string(), |exception| exception.to_string())
    };
    let point = |parcel: Parcel, x| parcel.word(1).word(12).word(x).word(2);
    assert_eq!(read(point(point(Parcel(vec![]).word(0), 1), 3)), "{x=1, y=2}, other={x=3, y=2}");
    assert_eq!(read(Parcel(vec![]).word(-8).text("why").word(0).word(42)), "EX_SERVICE_SPECIFIC(42) \"why\"");
    assert_eq!(read(Parcel(vec![]).word(-3).word(-1).word(0)), "EX_ILLEGAL_ARGUMENT");
    let noted = Parcel(vec![]).word(-127).word(12).word(9).word(9).word(-128).word(8).word(1);
    assert_eq!(read(point(point(noted, 5), 6)), "{x=5, y=2}, other={x=6, y=2}");
}

proptest::proptest! {
    #[test]
    fn no_payload_brings_it_down(bytes in proptest::collection::vec(0u8..6, 0..120), code in 1u32..5, total in 0u64..200) {
        let table = table();
        let found = table.method("t.IT", code, None).unwrap();
        let payload = Payload { bytes: &bytes, total, objects: &[] };
        let _ = arguments(&table, &found, payload, 0, Layout::Eleven).to_string();
        let _ = reply(&table, &found, payload, Layout::Ten).1.to_string();
    }
}
