//! The only place that spawns: every task has an owner that awaits it.
