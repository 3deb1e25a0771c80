//! The show: a counter and a file transfer go on while the path is broken in five ways. Then the account of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::DemoError;
use super::counter::{self, Beat, Counter, FAREWELL};
use super::outage::Outage;
use super::picture::{Picture, seconds};
use super::screen::{Ink, Screen};
use super::stage::Stage;
use super::table::{Account, Survived};
use super::transfer::{self, Progress};
use super::visitor::Visitor;
use crate::clock;

/// Calm before the first outage.
const OVERTURE: Duration = Duration::from_millis(1500);

/// Calm after each outage.
const CALM: Duration = Duration::from_millis(1300);

/// A first byte that takes longer than this after an outage will not come.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// After a first byte: until then what had waited is taken to have come.
const FLOOD: Duration = Duration::from_millis(40);

/// Runs it.
///
/// # Errors
/// A byte was lost or doubled, or the session did not survive; or this machine does not let it run.
pub(super) async fn run(stage: &Stage, visitor: &Visitor, screen: &Screen) -> Result<(), DemoError> {
    introduce(visitor, screen);
    let remote = visitor.run(stage, counter::COMMAND).await?;
    let (mut counter, mut beats) = Counter::new(remote);
    tokio::select! {
        error = counter.listen() => return Err(error),
        first = beats.changed() => first.map_err(|_| DemoError::DoesNotEnd)?,
    }
    let progress = Arc::new(Progress::default());
    let picture = Picture::new(beats.clone(), Arc::clone(&progress));
    let mut script = Script {
        stage,
        screen,
        beats,
        picture: &picture,
    };
    let acts = async { tokio::try_join!(script.run(), transfer::run(stage, visitor, pace(), progress)) };
    let played = tokio::select! {
        played = acts => played,
        error = counter.listen() => Err(error),
        () = picture.keep_drawing(screen) => Err(DemoError::DoesNotEnd),
    };
    screen.clear();
    let (survived, hash) = played?;
    let (last, code) = counter.stop().await?;
    if code != FAREWELL {
        return Err(DemoError::OtherFarewell { code });
    }
    screen.say("");
    picture.strip_lines(screen).iter().for_each(|line| screen.say(line));
    let account = Account { survived, last, hash };
    screen.say(&account.tell(screen.abilities()));
    Ok(())
}

/// The file is to be on its way for as long as the show lasts.
fn pace() -> Duration {
    let acts = Outage::ALL.into_iter().map(|outage| outage.length() + CALM);
    OVERTURE + acts.sum::<Duration>()
}

fn introduce(visitor: &Visitor, screen: &Screen) {
    let abilities = screen.abilities();
    let arrow = if abilities.unicode { "⇄" } else { "<->" };
    let client = match visitor {
        Visitor::OpenSsh { version } => format!("ssh ({version})"),
        Visitor::Own => "SSH client (built in)".to_owned(),
    };
    screen.say(&abilities.ink(Ink::Bold, "An SSH session that does not break"));
    screen.say(&format!(
        "\n  {client} {arrow} bowline {arrow} the path {arrow} bowline {arrow} sshd (built in)\n\n\
         In the remote shell a counter runs, 20 numbers a second. A file of 32 MiB is\n\
         copied there and back. Meanwhile the path breaks. All of this happens on this\n\
         machine and takes 25 seconds.\n"
    ));
}

/// Breaks the path, again and again, and looks what comes of it.
struct Script<'a> {
    stage: &'a Stage,
    screen: &'a Screen,
    beats: watch::Receiver<Beat>,
    picture: &'a Picture,
}

impl Script<'_> {
    async fn run(&mut self) -> Result<Vec<Survived>, DemoError> {
        tokio::time::sleep(OVERTURE).await;
        let mut survived = Vec::new();
        for outage in Outage::ALL {
            survived.push(self.survive(outage).await?);
            tokio::time::sleep(CALM).await;
        }
        Ok(survived)
    }

    async fn survive(&mut self, outage: Outage) -> Result<Survived, DemoError> {
        // Just after a number nothing is on its way that could be taken for the first byte afterwards.
        let before = self.next_beat(outage).await?;
        self.announce(outage);
        let (swallowed, resets) = (self.stage.path.swallowed(), self.stage.path.resets());
        self.picture.set_outage(Some(outage));
        let begun = clock::now();
        let mut silence = Silence::since(before.at);
        let mut watching = self.beats.clone();
        tokio::select! {
            inflicted = outage.inflict(&self.stage.path) => inflicted?,
            () = silence.watch(&mut watching) => {}
        }
        let ended = clock::now();
        self.picture.set_outage(None);
        let had = self.beats.borrow_and_update().number;
        let first = self.next_beat(outage).await?;
        silence.end(first.at);
        tokio::time::sleep(FLOOD).await;
        let survived = Survived {
            outage,
            lasted: ended - begun,
            silence: silence.longest,
            first_byte: first.at.saturating_duration_since(ended),
            caught_up: self.beats.borrow().number - had,
            swallowed: self.stage.path.swallowed() - swallowed,
            resets: self.stage.path.resets() - resets,
        };
        self.report(&survived);
        Ok(survived)
    }

    async fn next_beat(&mut self, outage: Outage) -> Result<Beat, DemoError> {
        self.beats.borrow_and_update();
        match tokio::time::timeout(LONGEST_WAIT, self.beats.changed()).await {
            Ok(Ok(())) => Ok(*self.beats.borrow()),
            // The counter's own error says more than that it stopped.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => Err(DemoError::Silent {
                outage: outage.name(),
                waited: LONGEST_WAIT,
            }),
        }
    }

    fn announce(&self, outage: Outage) {
        let name = self.screen.abilities().ink(Ink::Bad, outage.name());
        self.screen
            .say(&format!("{}  {name}: {}", self.stamp(), outage.meaning()));
    }

    fn report(&self, survived: &Survived) {
        let over = self.screen.abilities().ink(Ink::Good, "over");
        let (lasted, first) = (seconds(survived.lasted), survived.first_byte.as_millis());
        let after = match survived.outage {
            Outage::NewAddress => format!("at once; first byte after {first} ms"),
            _ => format!("after {lasted}; first byte {first} ms later"),
        };
        self.screen
            .say(&format!("{}  {over} {after}; {}", self.stamp(), survived.toll()));
    }

    fn stamp(&self) -> String {
        let time = format!("{:>7}", seconds(self.picture.elapsed()));
        self.screen.abilities().ink(Ink::Dim, &time)
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
    async fn watch(&mut self, beats: &mut watch::Receiver<Beat>) {
        while beats.changed().await.is_ok() {
            let at = beats.borrow_and_update().at;
            self.end(at);
        }
        std::future::pending().await
    }

    fn end(&mut self, at: Instant) {
        self.longest = self.longest.max(at.saturating_duration_since(self.last));
        self.last = at;
    }
}
