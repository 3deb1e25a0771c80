#![no_main]

bowline_fuzz::target!(bowline::fuzzing::authorized_keys, memory = 1 << 20);
