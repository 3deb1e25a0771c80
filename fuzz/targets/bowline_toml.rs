#![no_main]

bowline_fuzz::target!(bowline::fuzzing::bowline_toml, memory = 1 << 20);
