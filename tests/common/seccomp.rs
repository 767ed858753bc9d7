//! Scarcity on demand: the kernel asks a thread of the test's own about each call that can lack
//! memory, buffers or descriptors, and answers the caller as that thread says (seccomp_unotify(2)).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const RECEIVE: libc::c_ulong = 0xC050_2100;
const SEND: libc::c_ulong = 0xC018_2101;

/// How many steps are left out is given for yes and for no.
fn step(code: u16, k: u32, [jt, jf]: [u8; 2]) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Loads a filter for this thread, and the threads and processes that it starts.
fn load(program: &mut [libc::sock_filter], flags: libc::c_ulong) -> RawFd {
    let len = libc::c_ushort::try_from(program.len()).unwrap();
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: asks for no privileges any more, which a filter needs.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: a whole program, which the kernel copies.
    let made = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    };
    assert!(made >= 0, "seccomp: {}", io::Error::last_os_error());
    RawFd::try_from(made).unwrap()
}

/// No memory can be mapped from now on that a process shares with its children.
pub(crate) fn refuse_shared_memory() {
    const SHARED: u32 = (libc::MAP_SHARED | libc::MAP_ANONYMOUS).unsigned_abs();
    // Where the fourth argument is in struct seccomp_data.
    const FLAGS: u32 = 16 + 3 * 8;
    let call = u32::try_from(libc::SYS_mmap).unwrap();
    let mut program = [
        step(LOAD, 0, [0, 0]),
        step(IF_EQUAL, call, [0, 4]),
        step(LOAD, FLAGS, [0, 0]),
        step(AND, SHARED, [0, 0]),
        step(IF_EQUAL, SHARED, [0, 1]),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOMEM.unsigned_abs(), [0, 0]),
        step(RETURN, libc::SECCOMP_RET_ALLOW, [0, 0]),
    ];
    load(&mut program, 0);
}

/// What goes wrong, and how often.
#[derive(Debug)]
pub(crate) struct Scarcity {
    /// While it is up, about every so many calls one fails.
    pub(crate) on: AtomicBool,
    pub(crate) one_in: u64,
    /// How many have failed.
    pub(crate) failed: AtomicU64,
}

/// Each of these calls may fail with one of its errors: in this thread and in those that it starts
/// from now on, not in those that are there.
pub(crate) fn scarce(
    calls: &'static [(libc::c_long, &'static [i32])],
    one_in: u64,
    seed: u64,
) -> Arc<Scarcity> {
    let all = Arc::new(Scarcity { on: AtomicBool::new(false), one_in, failed: AtomicU64::new(0) });
    let (tell, told) = channel();
    let scarcity = Arc::clone(&all);
    std::thread::spawn(move || answer(told.recv().unwrap(), calls, &scarcity, seed));
    // The number of the call is the first word of struct seccomp_data.
    let mut program = vec![step(LOAD, 0, [0, 0])];
    for (nth, (call, _)) in calls.iter().enumerate() {
        let to_question = u8::try_from(calls.len() - nth).unwrap();
        program.push(step(IF_EQUAL, u32::try_from(*call).unwrap(), [to_question, 0]));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, [0, 0]));
    program.push(step(RETURN, libc::SECCOMP_RET_USER_NOTIF, [0, 0]));
    tell.send(load(&mut program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)).unwrap();
    all
}

/// Answers for as long as the process lives.
fn answer(listener: RawFd, calls: &[(libc::c_long, &[i32])], scarcity: &Scarcity, seed: u64) {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    };
    loop {
        // SAFETY: numbers, of which the kernel wants zeroes.
        let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: `question` is writable.
        if unsafe { libc::ioctl(listener, RECEIVE, &raw mut question) } != 0 {
            match io::Error::last_os_error().raw_os_error() {
                // Who asked was interrupted meanwhile, or has gone.
                Some(libc::EINTR | libc::ENOENT) => continue,
                _ => return,
            }
        }
        let asked = libc::c_long::from(question.data.nr);
        let (_, errors) = calls.iter().find(|(call, _)| *call == asked).unwrap();
        let fails = scarcity.on.load(Ordering::SeqCst) && random() % scarcity.one_in == 0;
        let (error, flags) = if fails {
            scarcity.failed.fetch_add(1, Ordering::SeqCst);
            let nth = usize::try_from(random()).unwrap() % errors.len();
            (-errors[nth], 0)
        } else {
            (0, u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap())
        };
        let mut reply = libc::seccomp_notif_resp { id: question.id, val: 0, error, flags };
        // SAFETY: `reply` is readable; who has gone meanwhile needs none.
        unsafe { libc::ioctl(listener, SEND, &raw mut reply) };
    }
}
