#![no_main]

bowline_fuzz::target!(bowline::fuzzing::known_hosts, memory = 1 << 20);
