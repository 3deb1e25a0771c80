#![no_main]

bowline_fuzz::target!(bowline::fuzzing::srv_answer, memory = 1 << 20);
