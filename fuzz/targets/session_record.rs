#![no_main]

bowline_fuzz::target!(bowline::fuzzing::session_record, memory = 1 << 20);
