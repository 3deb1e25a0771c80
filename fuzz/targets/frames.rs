#![no_main]

bowline_fuzz::target!(bowline_proto::fuzzing::frames, memory = 1 << 20);
