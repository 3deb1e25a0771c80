#![no_main]

bowline_fuzz::target!(bowline::fuzzing::signatures, memory = 1 << 20);
