//! The time, as scripts and limits see it: the system's, or a virtual one that a test moves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Tells the time. With a paused tokio runtime a virtual clock moves only when the test says so.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// The Unix time of `start`, if the clock is virtual.
    virtual_start: Option<Duration>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock { start: Instant::now(), virtual_start: None }
    }

    /// A clock that begins at `unix` and moves as tokio's time does.
    pub fn virtual_from(unix: Duration) -> Clock {
        Clock { start: Instant::now(), virtual_start: Some(unix) }
    }

    /// Time since the Unix epoch.
    pub fn unix(&self) -> Duration {
        match self.virtual_start {
            Some(start) => start + self.start.elapsed(),
            // A clock set before 1970 reads as 1970.
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Time since the clock was made; it never goes back.
    pub fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// `unix` in UTC as RFC 3339 writes it: `2026-05-01T12:03:51.250Z`.
pub fn rfc3339(unix: Duration) -> String {
    let (year, month, day) = date(unix.as_secs() / SECONDS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02}T{}.{:03}Z", time_of_day(unix), unix.subsec_millis())
}

/// The time of day in UTC: `12:03:51`.
pub fn time_of_day(unix: Duration) -> String {
    let second = unix.as_secs() % SECONDS_PER_DAY;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

const SECONDS_PER_DAY: u64 = 86_400;

/// Year, month and day of the Gregorian calendar, so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that a leap day is the last of its year. 146,097 days are 400 years.
    let days = days + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |seconds, text: &str| assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_399, "2000-02-28T23:59:59.000Z");
        check(951_782_400, "2000-02-29T00:00:00.000Z");
        check(951_868_800, "2000-03-01T00:00:00.000Z");
        check(1_735_689_599, "2024-12-31T23:59:59.000Z");
        check(4_107_542_400, "2100-03-01T00:00:00.000Z");
        assert_eq!(rfc3339(Duration::from_millis(1_777_637_031_250)), "2026-05-01T12:03:51.250Z");
    }
}
