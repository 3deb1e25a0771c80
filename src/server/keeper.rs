//! The keeper: holds what needs privilege, starts the worker and keeps it running.
