#![no_main]

bowline_fuzz::target!(bowline::fuzzing::socks5, memory = 1 << 20);
