//! What `ssh -G` says about a host.
