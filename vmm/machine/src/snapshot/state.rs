//! The machine without its RAM.

use std::time::Duration;

use devices::cmos::SavedCmos;
use devices::serial::SavedSerial;
use devices::virtio::SavedTransport;
use engine::EngineState;
use serde::{Deserialize, Serialize};

/// CPUs and devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MachineState {
    pub engine: EngineState,
    pub serial: SavedSerial,
    pub cmos: SavedCmos,
    /// What the real-time clock showed at power-on.
    pub rtc_base: Duration,
    /// By slot.
    pub virtio: Vec<SavedTransport>,
}
