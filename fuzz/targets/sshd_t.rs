#![no_main]

bowline_fuzz::target!(bowline::fuzzing::sshd_t, memory = 1 << 20);
