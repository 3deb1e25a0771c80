#![no_main]

bowline_fuzz::target!(bowline::fuzzing::keeper_messages, memory = 1 << 20);
