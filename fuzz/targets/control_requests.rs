#![no_main]

bowline_fuzz::target!(bowline::fuzzing::control_requests, memory = 1 << 20);
