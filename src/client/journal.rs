//! The journal of live sessions, so that the next run can end those whose owner died.
