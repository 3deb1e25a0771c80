#![no_main]

bowline_fuzz::target!(bowline::fuzzing::http_connect, memory = 1 << 20);
