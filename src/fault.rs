//! Faults that tests inject into a running half. Not compiled into release builds.
