"""Support for steps that never wait for the device: data feeding, and decisions on the device."""
