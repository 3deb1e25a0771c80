#![no_main]

bowline_fuzz::target!(bowline_proto::fuzzing::hello, memory = 1 << 20);
