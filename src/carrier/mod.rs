//! Carriers: authenticated, encrypted, ordered byte pipes between the halves, which may die at any moment.
