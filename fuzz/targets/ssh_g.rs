#![no_main]

bowline_fuzz::target!(bowline::fuzzing::ssh_g, memory = 1 << 20);
