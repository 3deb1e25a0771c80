//! Hints that the network changed: addresses, routes, wake from sleep.
