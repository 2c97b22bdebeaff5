//! Where models are tested.

use std::sync::LazyLock;

use candle_core::Device;
use sesrec::nn::DeviceChoice;

/// The device of `SESREC_TEST_DEVICE`, `cuda:0`, say; the CPU by default.
pub fn test_device() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        let device = std::env::var("SESREC_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
        device.parse::<DeviceChoice>().unwrap().open().unwrap()
    });
    &DEVICE
}
