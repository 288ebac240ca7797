//! Messages at a fixed rate, whatever has become of those before: who is slow is not spared.
//!
//! Each says when it was due, and its time counts from then, so that a server (or this program) that stands still makes
//! all that were due meanwhile late, and not one.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    crowd::{Crowd, Heard, What},
    wire::Template,
};

/// How long what was sent may take at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages of one stream that are sent before what has come is read.
const AT_ONCE: usize = 64;

/// Messages that are alike.
pub struct Stream {
    /// They send by turns.
    pub from: Vec<usize>,
    pub kind: u8,
    /// 12 bytes at least.
    pub size: usize,
    /// Messages each second.
    pub rate: f64,
    /// How many connections hear each of them.
    pub listeners: usize,
}

/// What has become of a stream.
#[derive(Default)]
pub struct Times {
    pub sent: usize,
    pub lost: usize,
    /// Milliseconds of each delivery from when it was due, the shortest first.
    pub sorted: Vec<f64>,
}

impl Times {
    /// The time that this part of the deliveries did not exceed.
    pub fn at(&self, part: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub fn longest(&self) -> f64 {
        self.at(1.0)
    }
}

/// Sends for as long as `goes_on` says so of the time since the beginning, and then waits for the rest.
pub fn run(crowd: &mut Crowd, streams: &[Stream], goes_on: impl Fn(Duration) -> bool) -> io::Result<Vec<Times>> {
    let mut templates: Vec<_> =
        streams.iter().map(|stream| Template::new(stream.kind, &vec![b'x'; stream.size])).collect();
    let mut found: Vec<Times> = streams.iter().map(|_| Times::default()).collect();
    let begin = Instant::now() + Duration::from_millis(20);
    let due = |stream: &Stream, turn: usize| begin + Duration::from_secs_f64(turn as f64 / stream.rate);
    let mut heard: Vec<Heard> = Vec::new();
    let mut last = begin;
    loop {
        let now = Instant::now();
        let until = if goes_on(now.saturating_duration_since(begin)) {
            let mut next = now + PATIENCE;
            for (place, stream) in streams.iter().enumerate() {
                let times = &mut found[place];
                for _ in 0..AT_ONCE {
                    if due(stream, times.sent) > now {
                        break;
                    }
                    let start = format!("{}{:011}", (b'a' + place as u8) as char, times.sent);
                    let frame = templates[place].with(start.as_bytes());
                    crowd.send(stream.from[times.sent % stream.from.len()], frame)?;
                    times.sent += 1;
                }
                next = next.min(due(stream, times.sent));
            }
            last = now;
            next
        } else {
            let is_done =
                found.iter().zip(streams).all(|(times, stream)| times.sorted.len() >= times.sent * stream.listeners);
            if is_done || now > last + PATIENCE {
                break;
            }
            last + PATIENCE
        };
        heard.clear();
        crowd.wait(Some(until), &mut heard)?;
        for heard in &heard {
            match heard.what {
                What::Message { start, .. } => {
                    let place = usize::from(start[0].wrapping_sub(b'a'));
                    let turn = std::str::from_utf8(&start[1..]).ok().and_then(|text| text.parse().ok());
                    let (Some(stream), Some(turn)) = (streams.get(place), turn) else {
                        return Err(io::Error::other("a message came that was not sent"));
                    };
                    let late = heard.at.saturating_duration_since(due(stream, turn));
                    found[place].sorted.push(late.as_secs_f64() * 1000.0);
                    last = last.max(heard.at);
                }
                What::Closed(code) => {
                    return Err(io::Error::other(format!("the server closed a connection with {code} under load")));
                }
                What::Opened { .. } => {}
            }
        }
    }
    for (times, stream) in found.iter_mut().zip(streams) {
        times.lost = (times.sent * stream.listeners).saturating_sub(times.sorted.len());
        times.sorted.sort_by(f64::total_cmp);
    }
    Ok(found)
}
