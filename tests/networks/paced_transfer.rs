//! A transfer of 1 MB/s whose bytes are counted and verified at its end.

use crate::support::data::random_bytes;
use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{now, wait_for};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

const PIECE: usize = 100_000;
const PAUSE: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(300);

/// The direction of the transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// A running transfer.
pub(crate) struct PacedTransfer {
    running: Running,
    received: Arc<AtomicU64>,
    wanted: Vec<u8>,
    reader: JoinHandle<Vec<u8>>,
    writer: JoinHandle<()>,
}

impl PacedTransfer {
    /// Starts a transfer of this many chunks, one every 0.1 s.
    pub(crate) fn start(rig: &Rig, direction: Direction, pieces: usize) -> PacedTransfer {
        let wanted = random_bytes(24, pieces * PIECE);
        let file = rig.ssh.path("wanted");
        std::fs::write(&file, &wanted).expect("the scratch folder");
        let arrived = rig.ssh.path("arrived");
        let (source, arrived_at) = (file.display(), arrived.display());
        let command = match direction {
            Direction::Down => format!(
                "i=0; while [ $i -lt {pieces} ]; do dd if={source} bs={PIECE} skip=$i count=1 2>/dev/null; i=$((i+1)); sleep 0.1; done"
            ),
            Direction::Up => format!("cat >{arrived_at}"),
        };
        let (running, mut stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, &command]));
        let received = Arc::new(AtomicU64::new(0));
        let (count, is_done) = (received.clone(), Arc::new(AtomicBool::new(false)));
        let written = is_done.clone();
        let out = wanted.clone();
        let writer = std::thread::spawn(move || {
            for piece in out.chunks(PIECE).take_while(|_| matches!(direction, Direction::Up)) {
                stdin.write_all(piece).expect("ssh reads");
                std::thread::sleep(PAUSE);
            }
            drop(stdin);
            written.store(true, SeqCst);
        });
        let reader = std::thread::spawn(move || match direction {
            Direction::Down => read_counting(&mut stdout, &count),
            Direction::Up => {
                // The file grows as bytes arrive.
                let size = || std::fs::metadata(&arrived).map_or(0, |file| file.len());
                let total = (pieces * PIECE) as u64;
                wait_for(LIMIT, || {
                    std::thread::sleep(Duration::from_millis(20));
                    count.store(size(), SeqCst);
                    (size() >= total).then_some(())
                });
                std::fs::read(&arrived).unwrap_or_default()
            }
        });
        PacedTransfer {
            running,
            received,
            wanted,
            reader,
            writer,
        }
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }

    /// Waits until this many bytes have arrived, and returns how long that took.
    #[track_caller]
    pub(crate) fn wait_until(&self, received: u64, limit: Duration) -> Duration {
        let start = now();
        let there = wait_for(limit, || (self.received() >= received).then_some(()));
        assert!(
            there.is_some(),
            "{} of {received} bytes after {limit:?}: {}",
            self.received(),
            self.running.err_so_far()
        );
        start.elapsed()
    }

    /// The longest time without received bytes, from now on.
    pub(crate) fn longest_stall(&self, during: Duration) -> Duration {
        let (start, mut last) = (now(), (self.received(), now()));
        let mut longest = Duration::ZERO;
        while start.elapsed() < during {
            std::thread::sleep(Duration::from_millis(5));
            longest = longest.max(last.1.elapsed());
            if self.received() != last.0 {
                last = (self.received(), now());
            }
        }
        longest
    }

    /// Waits for the end, and checks that everything arrived as sent.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.running.finish(LIMIT).expect_code(0);
        self.writer.join().expect("the writer");
        let read = self.reader.join().expect("the reader");
        assert!(
            read == self.wanted,
            "{} bytes arrived, not as they were sent",
            read.len()
        );
    }
}

fn read_counting(from: &mut impl Read, count: &AtomicU64) -> Vec<u8> {
    let (mut all, mut buffer) = (vec![], vec![0; 65_536]);
    loop {
        match from.read(&mut buffer).expect("our own pipe") {
            0 => return all,
            read => {
                all.extend_from_slice(&buffer[..read]);
                count.store(all.len() as u64, SeqCst);
            }
        }
    }
}
