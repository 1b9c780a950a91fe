//! How many steps run at the same time: as many as were asked for, as memory allows, and as other builds leave room for.
//!
//! Builds of one user share tokens: files of which a build holds one locked for each step that it runs besides its first.
//! The first needs none, so every build goes on, whatever the others do; and the kernel frees what a killed one held.
//!
//! ```text
//! FOLDER/job-0 ... job-<jobs - 2>     empty files, locked while a step runs
//! ```

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::layers::lock;
use crate::error::BuildError;

/// What a command is taken to need of which no earlier run is known: bytes.
pub(crate) const COMMAND_MEMORY: u64 = 256 << 20;

/// What copying files is taken to need: bytes.
pub(crate) const COPY_MEMORY: u64 = 64 << 20;

/// How often a waiting step looks for tokens, which other processes give back without a word.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long it is believed how much memory is left.
const BUDGET_AGE: Duration = Duration::from_secs(1);

/// Bounds how many steps run at the same time.
pub(crate) struct Jobs {
    limit: usize,
    /// Where builds of this user share their tokens.
    tokens: PathBuf,
    /// Tells how much memory is left: bytes.
    available: fn() -> Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    /// What the running steps are taken to need, bytes.
    reserved: u64,
    /// What all running steps together may need: what was left when none ran, bytes.
    budget: u64,
    /// When that was looked up.
    looked: Option<Instant>,
    /// Whether a step runs on the token that every build has.
    first_taken: bool,
}

/// What lets a step run.
enum Token {
    First,
    Shared(File),
    /// The folder of the tokens can't be used, so nobody can share.
    Unshared,
}

impl Jobs {
    pub(crate) fn new(limit: usize, tokens: PathBuf, available: fn() -> Option<u64>) -> Self {
        let (state, changed) = Default::default();
        Self { limit: limit.max(1), tokens, available, state, changed }
    }

    /// How many steps may run at the same time.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Waits until another step may run that will need so much memory. One step at least always may.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Cancelled`] when the build is stopped meanwhile.
    pub(crate) fn take(&self, memory: u64, stopped: impl Fn() -> bool) -> Result<Job<'_>, BuildError> {
        let mut state = lock(&self.state);
        loop {
            if stopped() {
                return Err(BuildError::cancelled());
            }
            if let Some(token) = self.admit(&mut state, memory) {
                state.running += 1;
                state.reserved += memory;
                state.first_taken |= matches!(token, Token::First);
                return Ok(Job { jobs: self, memory, token: Some(token) });
            }
            let waited = self.changed.wait_timeout(state, LOOK_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn admit(&self, state: &mut State, memory: u64) -> Option<Token> {
        if state.running == 0 {
            // Only now is what is left not yet diminished by the steps that it is shared out to. Looking takes as long as
            // a small step does, so it is not done for each of many.
            if state.looked.is_none_or(|looked| looked.elapsed() >= BUDGET_AGE) {
                state.budget = (self.available)().unwrap_or(u64::MAX);
                state.looked = Some(Instant::now());
            }
            return Some(Token::First);
        }
        if state.running >= self.limit || state.reserved.saturating_add(memory) > state.budget {
            return None;
        }
        if state.first_taken { self.shared_token() } else { Some(Token::First) }
    }

    fn shared_token(&self) -> Option<Token> {
        for number in 0..self.limit.saturating_sub(1) {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(self.tokens.join(format!("job-{number}")));
            let Ok(file) = file else { return Some(Token::Unshared) };
            match file.try_lock() {
                Ok(()) => return Some(Token::Shared(file)),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(_)) => return Some(Token::Unshared),
            }
        }
        None
    }
}

/// The permission to run a step, given back when dropped.
pub(crate) struct Job<'a> {
    jobs: &'a Jobs,
    memory: u64,
    token: Option<Token>,
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.jobs.state);
        state.running -= 1;
        state.reserved -= self.memory;
        match self.token.take() {
            Some(Token::First) => state.first_taken = false,
            Some(Token::Shared(file)) => drop(file),
            Some(Token::Unshared) | None => {}
        }
        drop(state);
        self.jobs.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn plenty() -> Option<u64> {
        Some(1000)
    }

    fn now(jobs: &Jobs, memory: u64) -> Option<Job<'_>> {
        // A build that is stopped after one look.
        let looks = std::cell::Cell::new(0);
        let once = || {
            looks.set(looks.get() + 1);
            looks.get() > 1
        };
        jobs.take(memory, once).ok()
    }

    #[test]
    fn memory_and_number_bound_what_runs() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = Jobs::new(3, folder.path().to_owned(), plenty);
        let huge = now(&jobs, 5000).expect("one always runs");
        assert!(now(&jobs, 0).is_none(), "nothing is left beside it");
        drop(huge);
        let first = now(&jobs, 600).expect("fits");
        assert!(now(&jobs, 401).is_none());
        let second = now(&jobs, 400).expect("fits exactly");
        let third = now(&jobs, 0).expect("needs nothing");
        assert!(now(&jobs, 0).is_none(), "three are the limit");
        drop((first, second));
        assert!(now(&jobs, 900).is_some());
        drop(third);
    }

    #[test]
    fn builds_share_all_tokens_but_their_first() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = |limit| Jobs::new(limit, folder.path().to_owned(), plenty);
        let (one, two) = (jobs(3), jobs(3));
        let mut of_one: Vec<_> = (0..3).map(|_| now(&one, 0).expect("nobody else runs")).collect();
        let first = now(&two, 0).expect("every build may run one step");
        assert!(now(&two, 0).is_none(), "the other build has both shared tokens");
        of_one.remove(0);
        assert!(now(&two, 0).is_none(), "the other build's own token is not shared");
        of_one.remove(0);
        let second = now(&two, 0).expect("a shared token came back");
        drop(first);
        let first = now(&two, 0).expect("the own token is free again");
        drop((first, second, of_one));
    }

    #[test]
    fn waits_until_a_job_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = Jobs::new(1, folder.path().to_owned(), || None);
        let job = jobs.take(u64::MAX, || false).expect("free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| jobs.take(1, || false).is_ok());
            drop(job);
            assert!(waiting.join().unwrap());
        });
        let _job = jobs.take(1, || false).expect("free");
        assert!(jobs.take(1, || true).is_err(), "a stopped build does not wait");
    }

    #[test]
    fn without_a_folder_nothing_is_shared() {
        let jobs = Jobs::new(2, PathBuf::from("/nonexistent"), plenty);
        let _both = (now(&jobs, 0).expect("first"), now(&jobs, 0).expect("second"));
        assert!(now(&jobs, 0).is_none());
    }
}
