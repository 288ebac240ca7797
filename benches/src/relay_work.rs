//! Work that only a relay with scripts is given: reloads under load, and one huge message among small ones.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    crowd::Crowd,
    paced::{self, Stream, Times},
    server::Running,
    wire::{self, BINARY, TEXT},
    work::{self, Meter, Used},
};

pub struct Reloaded {
    pub without: Times,
    pub with: Times,
    pub reloads: usize,
    /// Of the time with reloads.
    pub used: Used,
}

/// Rooms of 10 that talk, for a time without and for a time with the script saved each second.
pub fn reload(running: &Running, peers: usize, rate: usize, seconds: u64) -> io::Result<Reloaded> {
    let mut crowd = Crowd::new(running.port)?;
    let rooms = work::rooms(&mut crowd, "/r", peers.div_ceil(10), 10)?;
    let stream = Stream {
        from: rooms.iter().map(|room| room[0]).collect(),
        kind: TEXT,
        size: 64,
        rate: rate as f64,
        listeners: 9,
    };
    let streams = [stream];
    let time = Duration::from_secs(seconds);
    // What is cold is slow once.
    paced::run(&mut crowd, &streams, |since| since < Duration::from_secs(1))?;
    let without = paced::run(&mut crowd, &streams, |since| since < time)?.remove(0);
    let before = running.generation()?;
    let meter = Meter::start(running)?;
    let (with, saved) = thread::scope(|scope| {
        let saving = scope.spawn(|| save_each_second(running, &|turn| turn < seconds as usize));
        let times = paced::run(&mut crowd, &streams, |since| since < time || !saving.is_finished());
        (times, saving.join())
    });
    saved.map_err(|_| io::Error::other("saving the script failed"))??;
    let used = meter.stop()?;
    Ok(Reloaded { without, with: with?.remove(0), reloads: running.generation()? - before, used })
}

/// Saves the script once a second for as long as `goes_on` says so of the number of saves.
pub fn save_each_second(running: &Running, goes_on: &dyn Fn(usize) -> bool) -> io::Result<()> {
    let mut turn = 0;
    while goes_on(turn) {
        running.save_script(turn)?;
        thread::sleep(Duration::from_secs(1));
        turn += 1;
    }
    Ok(())
}

/// Enough for a message of 16 MiB to wait for each of those who are to hear it.
pub const LARGE_LIMITS: &str = "message = \"17 MiB\"\ninbox = \"17 MiB\"\noutbox = \"64 MiB\"";

pub struct Large {
    /// Bytes of memory at the worst moment, beyond what there were before.
    pub peak: f64,
    /// Of echoes of others: before, and while the large ones are under way.
    pub before: Times,
    pub meanwhile: Times,
    /// Seconds from the first byte sent to the last received by all.
    pub seconds_each: f64,
}

/// Some messages of `size` bytes through a room, while others go on with their echoes.
pub fn large(running: &Running, members: usize, size: usize) -> io::Result<Large> {
    const TIMES: usize = 3;
    let mut others = Crowd::new(running.port)?;
    let streams = [Stream { from: others.open_all("/echo", 10)?, kind: TEXT, size: 64, rate: 1000.0, listeners: 1 }];
    let mut crowd = Crowd::new(running.port)?;
    let rooms = work::rooms(&mut crowd, "/large", 1, members)?;
    let frame = wire::frame(BINARY, &vec![b'x'; size]);
    paced::run(&mut others, &streams, |since| since < Duration::from_secs(1))?;
    let before = paced::run(&mut others, &streams, |since| since < Duration::from_secs(3))?.remove(0);
    running.reset_peak()?;
    let resident = running.resident()?;
    let done = AtomicBool::new(false);
    let (meanwhile, sent) = thread::scope(|scope| {
        // A thread of its own, so that reading it all does not make the others look late.
        let sending = scope.spawn(|| {
            let begun = Instant::now();
            let result = work::deliver(&mut crowd, &rooms, &frame, TIMES);
            done.store(true, Ordering::Relaxed);
            result.map(|_| begun.elapsed().as_secs_f64() / TIMES as f64)
        });
        (paced::run(&mut others, &streams, |_| !done.load(Ordering::Relaxed)), sending.join())
    });
    let seconds_each = sent.map_err(|_| io::Error::other("sending the large messages failed"))??;
    Ok(Large { peak: running.peak()? - resident, before, meanwhile: meanwhile?.remove(0), seconds_each })
}
