#![no_main]

bowline_fuzz::target!(bowline_proto::fuzzing::relay, memory = 1 << 20);
