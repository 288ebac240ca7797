//! Sees that files may have changed, and asks; what has really changed is for the reload to find out.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::config;

/// How often it is asked where the system tells nothing of changes, as on some network file systems.
const POLL: Duration = Duration::from_secs(2);

pub struct Watcher {
    watcher: Option<RecommendedWatcher>,
    changes: mpsc::UnboundedReceiver<()>,
    /// Each folder, and which one it was.
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// The names of the files that count, scripts or not.
    names: Arc<Mutex<BTreeSet<OsString>>>,
}

impl Watcher {
    /// Watches nothing yet.
    pub fn new() -> Watcher {
        let (changed, changes) = mpsc::unbounded_channel();
        let names = Arc::<Mutex<BTreeSet<OsString>>>::default();
        let known = names.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Every fault is worth a look too.
            if event.is_ok_and(|event| concerns_nobody(&event, &known.lock().unwrap_or_else(PoisonError::into_inner))) {
                return;
            }
            let _ = changed.send(()); // nobody listens any more
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(
                    "files are looked at every {} s, since the system does not tell of changes: {error}",
                    POLL.as_secs()
                )
            })
            .ok();
        Watcher { watcher, changes, watched: BTreeMap::new(), names }
    }

    /// Watches the folders of `files`, not the files: editors rename over them. Folders that are watched stay so.
    pub fn watch(&mut self, files: &[PathBuf]) {
        let names = files.iter().filter_map(|file| file.file_name()).map(OsStr::to_owned);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        let mut folders: BTreeSet<PathBuf> = self.watched.keys().cloned().collect();
        for file in files {
            let folder = match file.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            if !folders.contains(folder) {
                folders.insert(folder.to_owned());
            }
        }
        for folder in folders {
            // Another folder may have this name by now, as after a deployment that replaces it whole.
            let identity = std::fs::metadata(&folder).ok().map(|found| (found.dev(), found.ino()));
            if self.watched.get(&folder) == Some(&identity) {
                continue;
            }
            if let Some(watcher) = &mut self.watcher {
                let _ = watcher.unwatch(&folder); // it may never have been watched
                if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    tracing::warn!(
                        "{} cannot be watched for changes, use `moonwire reload`: {error}",
                        folder.display()
                    );
                }
            }
            self.watched.insert(folder, identity);
        }
    }

    /// Resolves when something may have changed and has been still for `reload.debounce`, or has not been
    /// still for `reload.debounce_max`.
    pub async fn changed(&mut self, reload: &config::Reload) {
        if self.watcher.is_none() {
            return tokio::time::sleep(POLL).await;
        }
        let missing: Vec<PathBuf> =
            self.watched.iter().filter(|(_, identity)| identity.is_none()).map(|(folder, _)| folder.clone()).collect();
        tokio::select! {
            change = self.changes.recv() => {
                if change.is_none() {
                    return std::future::pending().await;
                }
            }
            () = one_appears(&missing), if !missing.is_empty() => {}
        }
        let latest = Instant::now() + reload.debounce_max;
        loop {
            let still = (Instant::now() + reload.debounce).min(latest);
            tokio::select! {
                () = sleep_until(still) => break,
                _ = self.changes.recv() => {}
            }
        }
        while self.changes.try_recv().is_ok() {}
    }
}

/// Resolves when one of the folders is there: nobody tells of what appears in a folder that is not watched.
async fn one_appears(folders: &[PathBuf]) {
    loop {
        tokio::time::sleep(POLL).await;
        if folders.iter().any(|folder| folder.is_dir()) {
            return;
        }
    }
}

/// Reading a file changes nothing, and neither does writing to one that is neither a script nor one of `names`:
/// the relay's own log may lie in a watched folder, and a reload writes to it.
fn concerns_nobody(event: &Event, names: &BTreeSet<OsString>) -> bool {
    let is_script = |path: &Path| path.extension().is_some_and(|extension| extension == "lua" || extension == "luau");
    let is_named = |path: &Path| path.file_name().is_some_and(|name| names.contains(name));
    match event.kind {
        EventKind::Access(_) => true,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_) | ModifyKind::Any) => {
            !event.need_rescan()
                && !event.paths.is_empty()
                && !event.paths.iter().any(|path| is_script(path) || is_named(path))
        }
        _ => false,
    }
}

impl Default for Watcher {
    fn default() -> Watcher {
        Watcher::new()
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, DataChange, RenameMode};

    use super::*;

    fn check(kind: EventKind, path: &str, worth_a_look: bool) {
        let names = BTreeSet::from([OsString::from("relay.conf")]);
        let event = Event::new(kind).add_path(PathBuf::from(path));
        assert_eq!(!concerns_nobody(&event, &names), worth_a_look, "{event:?}");
    }

    #[test]
    fn a_log_that_grows_beside_the_scripts_is_no_change() {
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        check(written, "./moonwire.log", false);
        check(written, "./chat.lua", true);
        check(written, "./files.luau", true);
        check(written, "./relay.conf", true);
        check(EventKind::Access(AccessKind::Any), "./chat.lua", false);
    }

    #[test]
    fn what_appears_goes_or_is_renamed_is_worth_a_look() {
        check(EventKind::Create(CreateKind::Any), "./modules", true);
        check(EventKind::Modify(ModifyKind::Name(RenameMode::Any)), "./chat.lua.new", true);
        assert!(!concerns_nobody(&Event::new(EventKind::Other), &BTreeSet::new()));
    }
}
