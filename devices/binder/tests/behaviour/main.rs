//! The core's behaviours, one test each, driven through a fake shim. `covers:` names BINDER.md's items.

mod abuse;
mod attempts;
mod calls;
mod deaths;
mod faults;
mod files;
mod freezer;
mod holds;
mod hostile;
mod ioctls;
mod lifecycle;
mod logs;
mod model;
mod objects;
mod oneways;
mod payloads;
mod polling;
mod reading;
mod references;
mod restoring;
mod scatter;
mod sharing;
mod suspending;
mod tracing;
mod trio;
mod world;
