//! The only place that spawns tasks: every task has an owner that awaits it.
//!
//! Stopping has two steps. First the token is cancelled, and tasks end in order. Tasks that have not ended within the
//! grace period are dropped at their next `.await`.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// A group of tasks with one owner.
///
/// If dropped without [`shutdown`](Self::shutdown), it drops its tasks: none outlives its owner by more than a poll.
#[derive(Debug)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Drops tasks that ignored `stop`.
    kill: CancellationToken,
}

impl Tasks {
    /// An empty group with its own token.
    pub(crate) fn new() -> Self {
        Self::under(&CancellationToken::new())
    }

    /// An empty group whose tasks are asked to stop when `token` is cancelled.
    pub(crate) fn under(token: &CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: token.child_token(),
            kill: CancellationToken::new(),
        }
    }

    /// Cancelled when the tasks should end. Cancelling it asks all tasks to end.
    pub(crate) fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task in the current tokio runtime. A panic ends only that task, and is logged.
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let kill = self.kill.clone();
        // Boxed, because each wrapper would hold the future twice: as its argument and as what it awaits.
        let future = log_panic(name, Box::pin(future));
        self.tracker.spawn(async move {
            kill.run_until_cancelled(future).await;
        });
    }

    /// Whether all tasks have ended.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks every task to stop, waits up to `grace`, then drops the rest.
    ///
    /// Returns how many tasks were dropped.
    pub(crate) async fn shutdown(self, grace: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tracker.len();
        self.kill.cancel();
        self.tracker.wait().await;
        left
    }

    /// Detaches the tasks, for tasks that end soon by themselves.
    pub(crate) fn detach(mut self) {
        self.stop = CancellationToken::new();
        self.kill = CancellationToken::new();
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill.cancel();
    }
}

/// Runs a long computation on a thread outside the runtime. `None` if it panicked, which is logged, or if the runtime
/// ends. Continues if the future is dropped.
pub(crate) async fn off_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.inspect_err(|error| error!(task = name, %error, "computation ended early"))
        .ok()
}

async fn log_panic(name: &'static str, future: impl Future<Output = ()>) {
    if let Err(panic) = catch_panic(future).await {
        error!(task = name, panic = panic_text(&*panic), "task panicked");
    }
}

/// The payload of a panic.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Runs `future`; returns a panic in it as an error.
pub(crate) async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, Panic> {
    let mut future = pin!(future);
    // Unwind safe, as in tokio: after a panic the future is dropped and never polled again.
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io::Write, sync::Arc};

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn shutdown_waits_for_tasks_that_heed_the_token() {
        let tasks = Tasks::new();
        let (ended, mut seen) = oneshot::channel();
        let token = tasks.token();
        tasks.spawn("polite", async move {
            token.cancelled().await;
            tokio::task::yield_now().await;
            ended.send(()).expect("the test listens");
        });
        assert_eq!(tasks.shutdown(LONG).await, 0);
        seen.try_recv().expect("ended before shutdown returned");
    }

    #[tokio::test]
    async fn shutdown_drops_tasks_that_ignore_the_token() {
        let tasks = Tasks::new();
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn("deaf", async move {
            let _held = held;
            pending::<()>().await;
        });
        assert_eq!(tasks.shutdown(Duration::from_millis(5)).await, 1);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn dropped_owner_drops_its_tasks() {
        let tasks = Tasks::new();
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn("orphan", async move {
            let _held = held;
            pending::<()>().await;
        });
        drop(tasks);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn child_group_is_asked_to_stop_with_its_parent_but_not_the_reverse() {
        let parent = Tasks::new();
        let first = Tasks::under(&parent.token());
        let second = Tasks::under(&parent.token());
        first.token().cancel();
        assert!(!parent.token().is_cancelled() && !second.token().is_cancelled());
        parent.shutdown(LONG).await;
        assert!(second.token().is_cancelled());
    }

    #[test]
    fn panic_is_logged_with_the_name_of_its_task_and_ends_nothing_else() {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                let tasks = Tasks::new();
                tasks.spawn("clumsy", async { panic!("dropped a {}", "vase") });
                assert_eq!(tasks.shutdown(LONG).await, 0);
            });
        });
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        assert!(
            text.contains("ERROR") && text.contains("clumsy") && text.contains("dropped a vase"),
            "{text}"
        );
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
