//! `known_hosts` files, as ssh(1) reads them, and the verdict on a server's keys.
