//! How a pair behaves.

use std::fmt;

use crate::record::Record;
use crate::target::Class;

/// What a read gets while writes of its key wait in the spool, or no main can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// It waits until the main has those writes, at most until its deadline.
    Wait,
    /// It is answered from the spool where the spool has what it asks for, and waits otherwise. One
    /// thing only the servers' ledger could tell: a write that was in doubt and is asked again may
    /// have been done before another that is acknowledged, and is the newest in the spool all the
    /// same.
    Overlay,
    /// It is refused as stale where writes of its key wait in the spool, and waits otherwise.
    Stale,
    /// It is put into the spool like a write: the whole diversion is one job, which the new main
    /// does in order, and results are asked for by id.
    Job,
}

/// What live writes do while the spool drains into a new main.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainMode {
    /// They go on joining the spool until it is empty.
    Before,
    /// Those whose key has nothing in the spool go to the new main at once.
    Parallel,
}

/// What is done about a request of which nobody knows whether it took effect. Servers that keep a
/// ledger, or for which doing it twice is as doing it once, are simply asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InDoubt {
    /// It is done again: at least once.
    Retry,
    /// It is given up: at most once.
    Skip,
    /// It waits for an operator, and the later requests of its key with it.
    Hold,
}

/// Makes the answer to a read out of the newest write of its key that waits in the spool. `None`:
/// it cannot be told from that alone.
pub type Overlay = fn(newest: &Record, read: &Record) -> Option<Vec<u8>>;

/// How a pair behaves. Times in microseconds.
#[derive(Clone)]
pub struct PairConfig {
    /// What the two servers promise.
    pub classes: [Class; 2],
    /// What reads get while the spool has something that they would miss.
    pub reads: Reads,
    /// Answers reads from the spool.
    pub overlay: Overlay,
    /// Deletes are spooled as writes are. Otherwise they wait as reads do, and one that was asked
    /// for after a spooled write of its key was acknowledged is done after it.
    pub delete_as_write: bool,
    /// What live writes do during drains.
    pub drain: DrainMode,
    /// What is done about requests in doubt.
    pub in_doubt: InDoubt,
    /// Requests that may wait for a server at once.
    pub hold_max: usize,
    /// Requests that may be under way at once, those that wait counted.
    pub in_flight_max: usize,
    /// Bytes of requests that may be under way at once.
    pub in_flight_bytes_max: u64,
    /// Records that may lie in the spool.
    pub quota_records: u64,
    /// Their weight.
    pub quota_bytes: u64,
    /// How long a server may take for a request.
    pub call_timeout: u64,
    /// So many errors within [`PairConfig::suspect_window`] make the main suspect.
    pub suspect_errors: usize,
    /// See [`PairConfig::suspect_errors`].
    pub suspect_window: u64,
    /// A suspect main that says nothing good for so long is given up.
    pub confirm: u64,
    /// How often servers are asked how they are.
    pub probe_every: u64,
    /// How long they may take to say so.
    pub probe_timeout: u64,
    /// How long the lock key holds without being renewed.
    pub lease: u64,
    /// The least time between two switches that the front makes by itself.
    pub flap_guard: u64,
    /// How long a main may take to finish and give the lock back in a planned switch.
    pub release_timeout: u64,
    /// The front switches by itself; otherwise only when told to.
    pub automatic: bool,
    /// The front writes down what it would do, and passes everything through.
    pub dry_run: bool,
    /// Records that may be on their way to the new main at once.
    pub drain_window_max: usize,
    /// Calls that may be on their way to the new main at once.
    pub drain_calls_max: usize,
    /// Records that may be drained in a second; 0: as many as the main takes.
    pub drain_rate: u64,
    /// Before it opens after a drain ([`DrainMode::Before`]), new writes may be kept waiting so
    /// long.
    pub freeze: u64,
    /// What rejected senders are told to wait.
    pub retry_after: u64,
}

impl Default for PairConfig {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000;
        Self {
            classes: [Class::Ledger; 2],
            reads: Reads::Wait,
            overlay: payload_of_a_write,
            delete_as_write: true,
            drain: DrainMode::Parallel,
            in_doubt: InDoubt::Retry,
            hold_max: 1000,
            in_flight_max: 8192,
            in_flight_bytes_max: 256 << 20,
            quota_records: 10_000_000,
            quota_bytes: 10 << 30,
            call_timeout: 5 * SECOND,
            suspect_errors: 3,
            suspect_window: 10 * SECOND,
            confirm: 2 * SECOND,
            probe_every: SECOND,
            probe_timeout: SECOND,
            lease: 10 * SECOND,
            flap_guard: 60 * SECOND,
            release_timeout: 30 * SECOND,
            automatic: true,
            dry_run: false,
            drain_window_max: 256,
            drain_calls_max: 4,
            drain_rate: 0,
            freeze: SECOND / 4,
            retry_after: 5 * SECOND,
        }
    }
}

impl PairConfig {
    /// By how much the granter waits longer than the lease, and the holder stops earlier: more than
    /// clocks can differ whose rates differ by one part in a hundred.
    #[must_use]
    pub fn lease_margin(&self) -> u64 {
        (self.lease / 50).max(50_000)
    }
}

impl fmt::Debug for PairConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairConfig")
            .field("classes", &self.classes)
            .field("reads", &self.reads)
            .field("drain", &self.drain)
            .field("in_doubt", &self.in_doubt)
            .finish_non_exhaustive()
    }
}

/// The overlay of backends whose reads give back what was written: the payload of a write.
#[must_use]
pub fn payload_of_a_write(newest: &Record, _read: &Record) -> Option<Vec<u8>> {
    (newest.kind == crate::Kind::Write).then(|| newest.payload.clone())
}
