"""Support for steps that never wait for the device: data feeding, averaging, and decisions on the device."""
