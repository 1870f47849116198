//! Where two answers or two events differ, for a person.

use zerocopy::{FromZeros, IntoBytes};

use crate::layout::{self as wire, Layout};

/// Bytes that are told of either.
const TOLD: usize = 32;

/// What two in pages have where they first differ.
pub fn answers(one: &[u8], other: &[u8]) -> [String; 2] {
    difference(wire::Answer::layout(), size_of::<wire::Answer>(), one, other)
}

/// What the used bytes of two events have where they first differ. One that did not come has none.
pub fn events(one: &[u8], other: &[u8]) -> [String; 2] {
    difference(wire::Event::layout(), wire::EVENT_HEAD, one, other)
}

fn difference(layout: Layout, fields: usize, one: &[u8], other: &[u8]) -> [String; 2] {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let field = layout.into_iter().rev().find(|(_, offset)| *offset <= same).filter(|_| same < fields);
    let (name, start) = field.unwrap_or(("what follows the fields", same));
    [one, other].map(|bytes| match bytes.len() {
        0 => "nothing".to_owned(),
        length => {
            let told = &bytes[start.min(length)..(start + TOLD).min(length)];
            format!("{name}, from byte {start} of {length}: {told:02x?}")
        }
    })
}

/// The event that has these used bytes. `None`: they are too few, or too many.
pub fn event(bytes: &[u8]) -> Option<wire::Event> {
    let mut event = wire::Event::new_zeroed();
    event.as_mut_bytes().get_mut(..bytes.len())?.copy_from_slice(bytes);
    (bytes.len() >= wire::EVENT_HEAD).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_first_field_that_differs_is_named() {
        let one = wire::Answer::new_zeroed();
        let other = wire::Answer { error: (-22).into(), idle_pages: 3.into(), ..one };
        let [told, of_other] = answers(one.as_bytes(), other.as_bytes());
        assert!(told.starts_with("error, from byte 8 of 96: [00, 00, 00, 00, "), "{told}");
        assert!(of_other.starts_with("error, from byte 8 of 96: [ea, ff, ff, ff, "), "{of_other}");
    }

    #[test]
    fn bytes_behind_the_fields_and_none_at_all_are_told() {
        let mut event = wire::Event::new_zeroed();
        let end = offset_of!(wire::Event, bytes);
        event.bytes[..3].copy_from_slice(&[1, 2, 3]);
        let bytes = event.as_bytes();
        let [told, of_other] = events(&bytes[..end + 3], &bytes[..end + 2]);
        assert_eq!(told, "what follows the fields, from byte 66 of 67: [03]");
        assert_eq!(of_other, "what follows the fields, from byte 66 of 66: []");
        let [told, of_other] = events(&bytes[..end], &[]);
        assert!(told.starts_with("kind, from byte 0 of 64: [00, "), "{told}");
        assert_eq!(of_other, "nothing");
    }
}
