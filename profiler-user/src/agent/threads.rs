//! The names of the target's threads, as far as they can still be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::model::{ThreadNames, Tid, Trace};
use crate::target::thread_name;

/// A thread may be renamed, and its number used again: names are read anew after this time.
const FRESH: Duration = Duration::from_secs(5);

/// Bounds what is remembered of threads that come and go.
const REMEMBERED: usize = 65_536;

#[derive(Default)]
pub(super) struct Threads {
    names: ThreadNames,
    read: FxHashMap<Tid, Instant>,
    new: Vec<Tid>,
}

impl Threads {
    /// Reads the names of the threads in a trace, where that was not done just now.
    pub(super) fn learn(&mut self, trace: &Trace) {
        let now = Instant::now();
        if self.read.len() >= REMEMBERED {
            self.read.clear();
            self.names.clear();
        }
        for span in &trace.spans {
            let tid = span.tid;
            if self.read.get(&tid).is_some_and(|read| now - *read < FRESH) {
                continue;
            }
            self.read.insert(tid, now);
            let Some(name) = thread_name(span.lane.pid(), tid) else { continue };
            if self.names.get(&tid).is_none_or(|known| **known != *name) {
                self.names.insert(tid, Arc::from(name));
                self.new.push(tid);
            }
        }
    }

    /// Hands out the names learned since the last call.
    pub(super) fn each_new<E>(
        &mut self,
        mut each: impl FnMut(Tid, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        for tid in self.new.drain(..) {
            if let Some(name) = self.names.get(&tid) {
                each(tid, name)?;
            }
        }
        Ok(())
    }

    pub(super) const fn names(&self) -> &ThreadNames {
        &self.names
    }

    pub(super) fn into_names(self) -> ThreadNames {
        self.names
    }
}
