"""Seven days of real logs through the real scheduler, with two days that must not be released."""
