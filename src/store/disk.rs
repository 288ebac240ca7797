//! The file: one table of keys and values, by SQLite. Nothing here knows of threads or queues.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, backup::Backup, params};

use super::{Why, decode};

/// The form of the tables. A later one is refused rather than guessed at.
const SCHEMA: i64 = 1;

const PAGE: usize = 4096;

/// How long another process may hold the file: `moonwire store`, or a tool of somebody else.
const PATIENCE: Duration = Duration::from_secs(5);

/// Expired keys that are removed at one time.
const SWEPT_AT_ONCE: i64 = 1_000;

/// Where the file lies, and how it is written.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: PathBuf,
    /// Bytes that it may have.
    pub size: usize,
    /// Whether a commit waits for the disk.
    pub durable: bool,
}

/// Which keys a list has.
#[derive(Debug, Clone, Default)]
pub struct Range {
    pub prefix: Vec<u8>,
    /// Only keys behind this one.
    pub after: Option<Vec<u8>>,
    pub limit: usize,
}

pub type Pair = (Vec<u8>, Vec<u8>);

/// A value, and when it expires.
pub type Row = (Vec<u8>, Option<i64>);

/// An open file. Values are the bytes of `encode`, times are milliseconds since 1970.
pub struct Database {
    connection: Connection,
}

impl Database {
    /// Opens the file and makes it, with its folder, if it is not there.
    pub fn open(place: &Place) -> Result<Database, Why> {
        if let Some(folder) = place.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let told = |error| Why::Disk(format!("the folder {} cannot be made: {error}", folder.display()));
            fs::create_dir_all(folder).map_err(told)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let database = Database::connect(&place.path, flags)?;
        database.check_form()?;
        let pages = (place.size / PAGE).max(16);
        let synchronous = if place.durable { "FULL" } else { "OFF" };
        database.connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA max_page_count = {pages};
             BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS store (
               app TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires INTEGER, PRIMARY KEY (app, key)
             ) STRICT;
             CREATE INDEX IF NOT EXISTS store_expires ON store (expires) WHERE expires IS NOT NULL;
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        ))?;
        Ok(database)
    }

    /// Opens a file that is there, beside a running relay or without one.
    pub fn open_existing(path: &Path) -> Result<Database, Why> {
        let database = Database::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if database.check_form()? == 0 {
            return Err(Why::Damaged("it has none of the store's tables".to_owned()));
        }
        database.connection.execute_batch("PRAGMA synchronous = FULL")?;
        Ok(database)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Database, Why> {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(PATIENCE)?;
        Ok(Database { connection })
    }

    /// The version of the tables; 0 for a file without any.
    fn check_form(&self) -> Result<i64, Why> {
        let form = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if form > SCHEMA {
            let what = format!("its tables have form {form}, and this version of moonwire knows {SCHEMA}");
            return Err(Why::Disk(what));
        }
        Ok(form)
    }

    // ── reading ──

    pub fn get(&self, app: &str, key: &[u8], now: i64) -> Result<Option<Vec<u8>>, Why> {
        Ok(self.row(app, key, now)?.map(|(value, _)| value))
    }

    pub fn row(&self, app: &str, key: &[u8], now: i64) -> Result<Option<Row>, Why> {
        let mut select = self.connection.prepare_cached(
            "SELECT value, expires FROM store WHERE app = ?1 AND key = ?2 AND (expires IS NULL OR expires > ?3)",
        )?;
        let row = select.query_row(params![app, key, now], |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(row.optional()?)
    }

    /// In byte order of the keys; an error if the values have more than `bytes_max`.
    pub fn list(&self, app: &str, range: &Range, now: i64, bytes_max: usize) -> Result<Vec<Pair>, Why> {
        let mut select = self.connection.prepare_cached(
            "SELECT key, value FROM store
             WHERE app = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) AND (expires IS NULL OR expires > ?4)
             ORDER BY key",
        )?;
        // SQLite looks up the first of both bounds.
        let from = range.after.as_ref().map_or(&range.prefix, |after| after.max(&range.prefix));
        let mut rows = select.query(params![app, from, range.after, now])?;
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let key: Vec<u8> = row.get(0)?;
            if pairs.len() >= range.limit || !key.starts_with(&range.prefix) {
                break;
            }
            let value: Vec<u8> = row.get(1)?;
            bytes += key.len() + value.len();
            if bytes > bytes_max {
                return Err(Why::Page);
            }
            pairs.push((key, value));
        }
        Ok(pairs)
    }

    /// The apps that have anything.
    pub fn apps(&self) -> Result<Vec<String>, Why> {
        let mut select = self.connection.prepare("SELECT DISTINCT app FROM store ORDER BY app")?;
        let apps = select.query_map([], |row| row.get(0))?;
        Ok(apps.collect::<Result<_, _>>()?)
    }

    // ── writing ──

    pub fn put(&self, app: &str, key: &[u8], value: &[u8], expires: Option<i64>) -> Result<(), Why> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO store (app, key, value, expires) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (app, key) DO UPDATE SET value = excluded.value, expires = excluded.expires",
        )?;
        insert.execute(params![app, key, value, expires])?;
        Ok(())
    }

    /// Whether it was there.
    pub fn remove(&self, app: &str, key: &[u8], now: i64) -> Result<bool, Why> {
        let was_there = self.row(app, key, now)?.is_some();
        let mut delete = self.connection.prepare_cached("DELETE FROM store WHERE app = ?1 AND key = ?2")?;
        delete.execute(params![app, key])?;
        Ok(was_there)
    }

    /// Removes what expired before `now`, a bounded number.
    pub fn sweep(&self, now: i64) -> Result<(), Why> {
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM store WHERE rowid IN (SELECT rowid FROM store WHERE expires IS NOT NULL AND expires <= ?1 LIMIT ?2)",
        )?;
        delete.execute(params![now, SWEPT_AT_ONCE])?;
        Ok(())
    }

    pub fn begin(&self) -> Result<(), Why> {
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    pub fn commit(&self) -> Result<(), Why> {
        Ok(self.connection.execute_batch("COMMIT")?)
    }

    pub fn roll_back(&self) {
        // Some errors have done so already.
        let _ = self.connection.execute_batch("ROLLBACK");
    }

    pub fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    // ── for the one who runs the relay ──

    /// Copies everything into a new file, while others may read and write.
    pub fn backup(&self, to: &Path) -> Result<(), Why> {
        let mut copy = Connection::open(to)?;
        // In one step: in several, every write in between would make it begin again.
        Backup::new(&self.connection, &mut copy)?.run_to_completion(i32::MAX, Duration::from_millis(10), None)?;
        // A copy of a file with a log would want one of its own.
        copy.execute_batch("PRAGMA journal_mode = DELETE")?;
        Ok(())
    }

    /// How many values there are, and everything that is wrong.
    pub fn verify(&self) -> Result<(usize, Vec<String>), Why> {
        let mut wrong = Vec::new();
        let mut check = self.connection.prepare("PRAGMA integrity_check")?;
        for line in check.query_map([], |row| row.get::<_, String>(0))? {
            wrong.push(line?);
        }
        wrong.retain(|line| line != "ok");
        let mut select = self.connection.prepare("SELECT app, key, value FROM store ORDER BY app, key")?;
        let mut rows = select.query([])?;
        let mut values = 0;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                // What comes behind a damaged page cannot be found.
                Err(error) => {
                    wrong.push(Why::from(error).to_string());
                    break;
                }
            };
            let (app, key, value): (String, Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            values += 1;
            if let Err(what) = decode(&value) {
                wrong.push(format!("{app}: {}", Why::unreadable(&key, what)));
            }
        }
        Ok((values, wrong))
    }
}

impl From<rusqlite::Error> for Why {
    fn from(error: rusqlite::Error) -> Why {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Why::Full,
            Some(ErrorCode::ReadOnly) => Why::ReadOnly,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Why::Damaged(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Why::Disk("another process has held it for too long".to_owned())
            }
            _ => Why::Disk(error.to_string()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{plain::Plain, store::encode};

    pub fn place(folder: &Path) -> Place {
        Place { path: folder.join("data").join("store.db"), size: 1 << 30, durable: false }
    }

    fn database() -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&place(folder.path())).unwrap();
        (folder, database)
    }

    #[test]
    fn a_list_is_in_byte_order_and_has_only_what_was_asked_for() {
        let (_folder, database) = database();
        for key in [&b"b"[..], b"a\xff", b"a", b"a\x00", b"c", b"a\xff\xff"] {
            database.put("chat", key, b"v", None).unwrap();
        }
        database.put("other", b"a", b"v", None).unwrap();
        let keys = |prefix: &[u8], after: Option<&[u8]>, limit| -> Vec<Vec<u8>> {
            let range = Range { prefix: prefix.to_vec(), after: after.map(<[u8]>::to_vec), limit };
            database.list("chat", &range, 0, 1_000).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(b"", None, 100), [&b"a"[..], b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"c"]);
        assert_eq!(keys(b"a", None, 100), [&b"a"[..], b"a\x00", b"a\xff", b"a\xff\xff"]);
        assert_eq!(keys(b"a\xff", None, 100), [&b"a\xff"[..], b"a\xff\xff"]);
        assert_eq!(keys(b"a", Some(b"a\x00"), 1), [&b"a\xff"[..]]);
        assert_eq!(keys(b"b", Some(b"a"), 9), [&b"b"[..]]);
        assert_eq!(database.list("chat", &Range { limit: 9, ..Range::default() }, 0, 5), Err(Why::Page));
    }

    #[test]
    fn an_expired_key_is_absent_before_it_is_swept() {
        let (_folder, database) = database();
        database.put("chat", b"k", b"v", Some(100)).unwrap();
        assert!(database.get("chat", b"k", 99).unwrap().is_some());
        assert!(database.get("chat", b"k", 100).unwrap().is_none());
        assert!(!database.remove("chat", b"k", 100).unwrap());
        database.put("chat", b"k", b"v", Some(100)).unwrap();
        database.sweep(100).unwrap();
        assert!(database.get("chat", b"k", 0).unwrap().is_none());
    }

    #[test]
    fn a_full_store_refuses_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&Place { size: 64 * PAGE, ..place(folder.path()) }).unwrap();
        database.put("chat", b"first", b"v", None).unwrap();
        let large = vec![0; 100 * PAGE];
        assert_eq!(database.put("chat", b"large", &large, None), Err(Why::Full));
        assert_eq!(database.get("chat", b"first", 0).unwrap().unwrap(), b"v");
        database.put("chat", b"second", b"v", None).unwrap();
    }

    #[test]
    fn a_read_only_store_says_so() {
        let (_folder, database) = database();
        database.connection.execute_batch("PRAGMA query_only = ON").unwrap();
        assert_eq!(database.put("chat", b"k", b"v", None), Err(Why::ReadOnly));
    }

    #[test]
    fn a_file_that_is_no_store_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        fs::create_dir_all(place.path.parent().unwrap()).unwrap();
        fs::write(&place.path, "not a database, but a text that is long enough to be taken for one".repeat(100))
            .unwrap();
        let before = fs::read(&place.path).unwrap();
        assert!(matches!(Database::open(&place), Err(Why::Damaged(_))));
        assert_eq!(fs::read(&place.path).unwrap(), before);
    }

    #[test]
    fn verify_finds_what_cannot_be_read_and_a_backup_has_everything() {
        let (folder, database) = database();
        database.put("chat", b"good", &encode(&Plain::Bool(true)), None).unwrap();
        assert_eq!(database.verify().unwrap(), (1, Vec::new()));
        database.put("chat", b"bad", b"\x01\x02", None).unwrap();
        let (values, wrong) = database.verify().unwrap();
        assert_eq!((values, wrong.len()), (2, 1));
        assert!(wrong[0].starts_with("chat: the value of \"bad\" cannot be read"), "{wrong:?}");
        let copy = folder.path().join("copy.db");
        database.backup(&copy).unwrap();
        let copy = Database::open_existing(&copy).unwrap();
        assert_eq!(copy.apps().unwrap(), ["chat"]);
        assert!(copy.get("chat", b"good", 0).unwrap().is_some());
    }

    #[test]
    fn overwritten_pages_are_found() {
        let (folder, database) = database();
        for n in 0..200_u32 {
            database.put("chat", &n.to_be_bytes(), &encode(&Plain::string(vec![b'x'; 1_000])), None).unwrap();
        }
        drop(database);
        let path = place(folder.path()).path;
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 3 * PAGE].fill(0x5a);
        fs::write(&path, bytes).unwrap();
        let database = Database::open_existing(&path).unwrap();
        let (_, wrong) = database.verify().unwrap();
        assert!(!wrong.is_empty());
    }
}
