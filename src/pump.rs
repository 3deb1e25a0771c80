//! The one loop that joins a local pipe, a session and its carriers.
