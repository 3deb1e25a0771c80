//! The show: a counter and a file transfer go on while the path is broken in five ways. Then the summary of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::DemoError;
use super::counter::{self, Counter, EXIT_CODE, Reading};
use super::fixture::Fixture;
use super::outage::Outage;
use super::picture::{Picture, seconds};
use super::screen::{Screen, Style};
use super::ssh_client::SshClient;
use super::table::{Summary, Survived};
use super::transfer::{self, Progress};
use crate::clock;

/// Calm before the first outage.
const INITIAL_DELAY: Duration = Duration::from_millis(1500);

/// Calm after each outage.
const OUTAGE_INTERVAL: Duration = Duration::from_millis(1300);

/// A first byte that takes longer than this after an outage will not come.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(8);

/// After a first byte: until then what had waited is taken to have come.
const CATCH_UP_DELAY: Duration = Duration::from_millis(40);

/// Runs it.
///
/// # Errors
/// A byte was lost or doubled, or the session did not survive; or this machine does not let it run.
pub(super) async fn run(fixture: &Fixture, ssh_client: &SshClient, screen: &Screen) -> Result<(), DemoError> {
    introduce(ssh_client, screen);
    let remote = ssh_client.run(fixture, counter::COMMAND).await?;
    let (mut counter, mut readings) = Counter::new(remote);
    tokio::select! {
        error = counter.listen() => return Err(error),
        first = readings.changed() => first.map_err(|_| DemoError::DoesNotEnd)?,
    }
    let progress = Arc::new(Progress::default());
    let picture = Picture::new(readings.clone(), Arc::clone(&progress));
    let mut script = Script {
        fixture,
        screen,
        readings,
        picture: &picture,
    };
    let acts = async { tokio::try_join!(script.run(), transfer::run(fixture, ssh_client, pace(), progress)) };
    let played = tokio::select! {
        played = acts => played,
        error = counter.listen() => Err(error),
        () = picture.keep_drawing(screen) => Err(DemoError::DoesNotEnd),
    };
    screen.clear();
    let (survived, hash) = played?;
    let (last, code) = counter.stop().await?;
    if code != EXIT_CODE {
        return Err(DemoError::WrongExitCode { code });
    }
    screen.say("");
    picture.timeline_lines(screen).iter().for_each(|line| screen.say(line));
    let summary = Summary { survived, last, hash };
    screen.say(&summary.render(screen.features()));
    Ok(())
}

/// The file is to be on its way for as long as the show lasts.
fn pace() -> Duration {
    let acts = Outage::ALL.into_iter().map(|outage| outage.length() + OUTAGE_INTERVAL);
    INITIAL_DELAY + acts.sum::<Duration>()
}

fn introduce(ssh_client: &SshClient, screen: &Screen) {
    let features = screen.features();
    let arrow = if features.unicode { "⇄" } else { "<->" };
    let client = match ssh_client {
        SshClient::OpenSsh { version } => format!("ssh ({version})"),
        SshClient::Own => "SSH client (built in)".to_owned(),
    };
    screen.say(&features.style(Style::Bold, "An SSH session that does not break"));
    screen.say(&format!(
        "\n  {client} {arrow} bowline {arrow} the path {arrow} bowline {arrow} sshd (built in)\n\n\
         In the remote shell a counter runs, 20 numbers a second. A file of 32 MiB is\n\
         copied there and back. Meanwhile the path breaks. All of this happens on this\n\
         machine and takes 25 seconds.\n"
    ));
}

/// Breaks the path, again and again, and looks what comes of it.
struct Script<'a> {
    fixture: &'a Fixture,
    screen: &'a Screen,
    readings: watch::Receiver<Reading>,
    picture: &'a Picture,
}

impl Script<'_> {
    async fn run(&mut self) -> Result<Vec<Survived>, DemoError> {
        tokio::time::sleep(INITIAL_DELAY).await;
        let mut survived = Vec::new();
        for outage in Outage::ALL {
            survived.push(self.survive(outage).await?);
            tokio::time::sleep(OUTAGE_INTERVAL).await;
        }
        Ok(survived)
    }

    async fn survive(&mut self, outage: Outage) -> Result<Survived, DemoError> {
        // Just after a number nothing is on its way that could be taken for the first byte afterwards.
        let before = self.next_reading(outage).await?;
        self.announce(outage);
        let (dropped, resets) = (self.fixture.path.dropped(), self.fixture.path.resets());
        self.picture.set_outage(Some(outage));
        let begun = clock::now();
        let mut silence = Silence::since(before.at);
        let mut watching = self.readings.clone();
        tokio::select! {
            inflicted = outage.inflict(&self.fixture.path) => inflicted?,
            () = silence.watch(&mut watching) => {}
        }
        let ended = clock::now();
        self.picture.set_outage(None);
        let had = self.readings.borrow_and_update().number;
        let first = self.next_reading(outage).await?;
        silence.end(first.at);
        tokio::time::sleep(CATCH_UP_DELAY).await;
        let survived = Survived {
            outage,
            lasted: ended - begun,
            silence: silence.longest,
            first_byte: first.at.saturating_duration_since(ended),
            caught_up: self.readings.borrow().number - had,
            dropped: self.fixture.path.dropped() - dropped,
            resets: self.fixture.path.resets() - resets,
        };
        self.report(&survived);
        Ok(survived)
    }

    async fn next_reading(&mut self, outage: Outage) -> Result<Reading, DemoError> {
        self.readings.borrow_and_update();
        match tokio::time::timeout(RECOVERY_TIMEOUT, self.readings.changed()).await {
            Ok(Ok(())) => Ok(*self.readings.borrow()),
            // The counter's own error says more than that it stopped.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => Err(DemoError::Silent {
                outage: outage.name(),
                waited: RECOVERY_TIMEOUT,
            }),
        }
    }

    fn announce(&self, outage: Outage) {
        let name = self.screen.features().style(Style::Bad, outage.name());
        self.screen
            .say(&format!("{}  {name}: {}", self.stamp(), outage.meaning()));
    }

    fn report(&self, survived: &Survived) {
        let over = self.screen.features().style(Style::Good, "over");
        let (lasted, first) = (seconds(survived.lasted), survived.first_byte.as_millis());
        let after = match survived.outage {
            Outage::NewAddress => format!("at once; first byte after {first} ms"),
            _ => format!("after {lasted}; first byte {first} ms later"),
        };
        self.screen
            .say(&format!("{}  {over} {after}; {}", self.stamp(), survived.impact()));
    }

    fn stamp(&self) -> String {
        let time = format!("{:>7}", seconds(self.picture.elapsed()));
        self.screen.features().style(Style::Dim, &time)
    }
}

/// The longest time without a number.
struct Silence {
    last: Instant,
    longest: Duration,
}

impl Silence {
    fn since(last: Instant) -> Silence {
        Silence {
            last,
            longest: Duration::ZERO,
        }
    }

    /// Never returns.
    async fn watch(&mut self, readings: &mut watch::Receiver<Reading>) {
        while readings.changed().await.is_ok() {
            let at = readings.borrow_and_update().at;
            self.end(at);
        }
        std::future::pending().await
    }

    fn end(&mut self, at: Instant) {
        self.longest = self.longest.max(at.saturating_duration_since(self.last));
        self.last = at;
    }
}
