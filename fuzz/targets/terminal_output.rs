#![no_main]

bowline_fuzz::target!(bowline_terminal::fuzzing::terminal_output, memory = 16 << 20);
