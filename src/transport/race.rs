//! The race of several attempts to connect (RFC 8305, Happy Eyeballs).

use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Delay between the start of one attempt and the start of the next (RFC 8305 section 5).
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Starts attempts in order, each after its delay or as soon as another one fails. Returns the first
/// success and aborts the other attempts; `None` if all have failed. The first attempt starts at
/// once. `failed` gets every failure, also if the caller drops the future.
pub(crate) async fn race<T, E, F>(attempts: Vec<(Duration, F)>, mut failed: impl FnMut(E)) -> Option<T>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut waiting = attempts.into_iter();
    let mut next = waiting.next();
    let mut running = JoinSet::new();
    loop {
        if let Some((_, attempt)) = next.take() {
            running.spawn(attempt);
            next = waiting.next();
        } else if running.is_empty() {
            return None;
        }
        let delay = next.as_ref().map_or(Duration::ZERO, |(delay, _)| *delay);
        if next.is_some() && delay.is_zero() {
            continue;
        }
        tokio::select! {
            Some(finished) = running.join_next() => match finished {
                Ok(Ok(won)) => return Some(won),
                Ok(Err(error)) => failed(error),
                // An attempt that panicked has failed. They are aborted only when the race ends.
                Err(_) => {}
            },
            () = sleep(delay), if next.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::pin::Pin;
    use std::sync::Arc;
    use tokio::sync::Barrier;

    type Attempt = Pin<Box<dyn Future<Output = Result<&'static str, &'static str>> + Send>>;

    fn attempt(outcome: Result<&'static str, &'static str>) -> Attempt {
        Box::pin(ready(outcome))
    }

    #[tokio::test]
    async fn attempt_that_fails_starts_the_next_at_once_and_one_that_is_slow_after_its_delay() {
        const NEVER: Duration = Duration::from_secs(3600);
        let mut failures = Vec::new();
        let attempts: Vec<(_, Attempt)> = vec![
            (NEVER, attempt(Err("refused"))),
            (NEVER, Box::pin(pending())),
            (ATTEMPT_DELAY, attempt(Ok("won"))),
            (NEVER, attempt(Ok("late"))),
        ];
        let won = race(attempts, |error| failures.push(error)).await;
        assert_eq!((won, failures), (Some("won"), vec!["refused"]));
    }

    #[tokio::test]
    async fn attempts_without_a_delay_run_together_and_none_wins_if_all_fail() {
        let both = Arc::new(Barrier::new(2));
        let attempts = ["one", "other"].map(|name| {
            let both = Arc::clone(&both);
            let attempt = async move {
                both.wait().await;
                Err::<(), _>(name)
            };
            (Duration::ZERO, attempt)
        });
        let mut failures = Vec::new();
        assert_eq!(race(attempts.into(), |error| failures.push(error)).await, None);
        failures.sort_unstable();
        assert_eq!(failures, ["one", "other"]);
    }
}
