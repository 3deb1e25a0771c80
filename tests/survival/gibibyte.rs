//! The long one: both directions full, worker and keeper killed over and over.

use crate::support::flow::{End, Flow};
use crate::support::link::Rng;
use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{data, heavy, measured, now, seed, wait_for};
use crate::{last_lines, percentile};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// From the last kill to the end of the transfer.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two kills at least; and the chance on top.
const APART: Duration = Duration::from_millis(1_000);
const CHANCE: Duration = Duration::from_millis(150);
const PIECE: usize = 1 << 16;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Worker,
    Keeper,
}

#[test]
fn a_gibibyte_each_way_outlives_fifty_killed_workers_and_ten_killed_keepers() {
    let _turn = heavy();
    let (size, workers, keepers) = match std::env::var_os("SURVIVAL_QUICK") {
        Some(_) => (100 * data::MIB, 8, 2),
        None => (1024 * data::MIB, 50, 10),
    };
    let seed = seed();
    let mut rng = Rng::new(seed);
    let rig = Rig::bowline();
    let transfer = Transfer::start(&rig, seed, size);
    let victims = shuffled(workers, keepers, &mut rng);
    let kills: Vec<_> = victims
        .into_iter()
        .map(|victim| (victim, transfer.survive(&rig, victim, &mut rng)))
        .collect();
    let flows = [transfer.down.clone(), transfer.up.clone()];
    transfer.finish(&rig);
    report(&kills, &flows);
    measured("resumes", rig.resumes());
}

/// In a random order.
fn shuffled(workers: usize, keepers: usize, rng: &mut Rng) -> Vec<Victim> {
    let mut victims = vec![Victim::Worker; workers];
    for _ in 0..keepers {
        let place = rng.draw() as usize % (victims.len() + 1);
        victims.insert(place, Victim::Keeper);
    }
    victims
}

/// How long each direction was silent after a kill: until bytes flowed again.
fn report(kills: &[(Victim, Instant)], flows: &[Arc<Flow>; 2]) {
    for victim in [Victim::Worker, Victim::Keeper] {
        for (flow, way) in flows.iter().zip(["down", "up"]) {
            let times = kills.iter().filter(|(who, _)| *who == victim);
            let times: Vec<Duration> = times.map(|(_, at)| flow.longest_silence(*at, *at + APART)).collect();
            measured(
                &format!("silence {way} after a killed {victim:?}"),
                format_args!(
                    "median {:?}, p90 {:?}, worst {:?} of {}",
                    percentile(&times, 50),
                    percentile(&times, 90),
                    percentile(&times, 100),
                    times.len()
                ),
            );
        }
    }
}

/// One ssh with both directions full; this process is at all four ends.
struct Transfer {
    running: Running,
    /// What the remote command has got, and what ssh has put out.
    up: Arc<Flow>,
    down: Arc<Flow>,
    sent: [Arc<Flow>; 2],
    pace: Arc<Pace>,
    start: Instant,
}

/// How fast, and until when, both senders send.
struct Pace {
    size: u64,
    pause_ms: AtomicU64,
    is_over: AtomicBool,
}

impl Transfer {
    fn start(rig: &Rig, seed: u64, size: u64) -> Transfer {
        let (to_us, from_us) = (fifo(rig.ssh.path("up")), fifo(rig.ssh.path("down")));
        let command = format!(
            "exec 3<&0; cat <&3 >{} & cat <{}; wait $! && exit 0; exit 9",
            to_us.display(),
            from_us.display()
        );
        let (running, stdin, stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, &command]));
        let pace = Arc::new(Pace {
            size,
            pause_ms: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let (up, down) = (Arc::new(Flow::new(seed)), Arc::new(Flow::new(!seed)));
        let sent = [Arc::new(Flow::new(seed)), Arc::new(Flow::new(!seed))];
        let received = (up.clone(), down.clone());
        std::thread::spawn(move || received.0.check(open_to_read(&to_us)));
        std::thread::spawn(move || received.1.check(stdout));
        spawn_sender(sent[0].clone(), pace.clone(), move || {
            Ok::<ChildStdin, io::Error>(stdin)
        });
        spawn_sender(sent[1].clone(), pace.clone(), move || open_to_write(&from_us));
        Transfer {
            running,
            up,
            down,
            sent,
            pace,
            start: now(),
        }
    }

    /// Kills one, at least [`APART`] after the last; when that was.
    fn survive(&self, rig: &Rig, victim: Victim, rng: &mut Rng) -> Instant {
        // Now at full speed, now with room between the bytes.
        self.pace.pause_ms.store([0, 0, 1, 8][rng.draw() as usize % 4], SeqCst);
        sleep(CHANCE.mul_f64(rng.unit()));
        let half = rig.serve().half();
        match victim {
            Victim::Worker => half.kill_worker(),
            Victim::Keeper => half.kill_keeper(),
        };
        let killed = now();
        sleep(APART);
        let both = [&self.down, &self.up];
        assert_eq!(
            both.map(|flow| (flow.end(), flow.wrong())),
            [(None, None), (None, None)],
            "{}",
            self.story(rig)
        );
        killed
    }

    fn finish(self, rig: &Rig) {
        let killing = self.start.elapsed();
        self.pace.pause_ms.store(0, SeqCst);
        self.pace.is_over.store(true, SeqCst);
        let flows = [&self.sent[0], &self.up, &self.sent[1], &self.down];
        let all = wait_for(LIMIT, || flows.iter().all(|flow| flow.end().is_some()).then_some(()));
        assert!(all.is_some(), "the transfer does not end: {}", self.story(rig));
        assert_eq!(
            flows.map(|flow| flow.end()),
            [const { Some(End::Clean) }; 4],
            "{}",
            self.story(rig)
        );
        let [up, down] = [self.up.bytes(), self.down.bytes()];
        assert_eq!(
            [self.sent[0].bytes(), self.sent[1].bytes()],
            [up, down],
            "as many as were sent"
        );
        assert_eq!(
            [self.up.wrong(), self.down.wrong()],
            [None, None],
            "the first wrong byte"
        );
        measured(
            "both ways",
            format_args!(
                "{} MiB up, {} MiB down, {:.1} s of kills, {:.1} s in all",
                up / data::MIB,
                down / data::MIB,
                killing.as_secs_f64(),
                self.start.elapsed().as_secs_f64()
            ),
        );
        self.running.finish(Duration::from_secs(30)).expect_code(0);
    }

    fn story(&self, rig: &Rig) -> String {
        let flow = |flow: &Flow| (flow.bytes(), flow.end(), flow.wrong());
        format!(
            "sent up {:?}, came up {:?}, sent down {:?}, came down {:?}\nssh: {}\nserver half: {}\nclient half: {}",
            flow(&self.sent[0]),
            flow(&self.up),
            flow(&self.sent[1]),
            flow(&self.down),
            self.running.err_so_far(),
            last_lines(&rig.serve().log()),
            last_lines(&rig.ssh.proxy_log())
        )
    }
}

fn spawn_sender<W: io::Write>(flow: Arc<Flow>, pace: Arc<Pace>, open: impl FnOnce() -> io::Result<W> + Send + 'static) {
    std::thread::spawn(move || {
        let writer = open().expect("the remote command opens its end");
        flow.send(writer, |sent| {
            let pause = pace.pause_ms.load(SeqCst);
            if pause > 0 {
                sleep(Duration::from_millis(pause));
            }
            (sent < pace.size || !pace.is_over.load(SeqCst)).then_some(PIECE)
        });
    });
}

fn fifo(path: PathBuf) -> PathBuf {
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("the scratch folder");
    path
}

/// Waits for a writer, so that what follows is read to a real end.
fn open_to_read(path: &Path) -> File {
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).expect("a FIFO of ours");
    let limit = Timespec::try_from(crate::LIMIT).expect("seconds");
    let _ = poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&limit));
    blocking(file.into())
}

/// Waits for a reader.
fn open_to_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = wait_for(crate::LIMIT, || open(path, flags, Mode::empty()).ok());
    Ok(blocking(file.ok_or(io::ErrorKind::TimedOut)?.into()))
}

fn blocking(file: File) -> File {
    rustix::io::ioctl_fionbio(&file, false).expect("a FIFO of ours");
    file
}
