//! What stands in the pages that a guest's shim and the virtio-binder device share.
//!
//! The layout is `guest/shim/virtio_binder.h`'s, and [`layout`] mirrors it; a test compiles the header and compares. The
//! core knows nothing of it: it has [`Message`](binder::message::Message)s, [`Answer`](binder::message::Answer)s and
//! [`Event`](binder::message::Event)s, which follow the layout field by field. Between the two:
//!
//! - [`decode`]: from an out page to a message. A page is a guest's, so every offset and count in it is judged.
//! - [`encode`]: from an answer and events to an in page, or to a buffer of the event queue.
//! - [`tell`]: what an answer or an event says, where two differ.
//! - [`request`]: from a message to an out page, as the shim does it: for tests, benchmarks, and whoever else plays a guest.
//!
//! Two read these bytes: the device, as they cross, and a replay, much later, since a recording holds them as they were
//! (`binder::replay::Step`). So nothing here knows of queues, or of a guest's memory.

pub mod decode;
pub mod encode;
pub mod layout;
pub mod request;
pub mod tell;

pub use layout::*;
