//! The user's keys, from the agent and from files, and the order they are tried in.
