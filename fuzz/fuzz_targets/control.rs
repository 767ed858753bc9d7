//! The control socket of a process that has sessions: whatever is said to it, it answers each line
//! with one line of JSON or hangs up, and the process and its other sessions go on.
#![no_main]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use eversock::{VirtualListener, VirtualStream};
use libfuzzer_sys::fuzz_target;

/// Longer than any answer takes; what is slower hangs.
const PATIENCE: Duration = Duration::from_secs(10);

struct Process {
    path: PathBuf,
    _sessions: (VirtualListener, VirtualStream, VirtualStream),
}

/// This process, with a session to itself.
fn process() -> &'static Process {
    static PROCESS: OnceLock<Process> = OnceLock::new();
    PROCESS.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("eversock-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        // SAFETY: before the engine's thread, and nobody else reads the environment meanwhile.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", &folder) };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = VirtualListener::bind(any).expect("listens");
        let client = VirtualStream::connect(listener.local_addr().expect("bound")).expect("opens");
        let (server, _) = listener.accept().expect("accepts");
        let path = folder.join("eversock").join(format!("{}.sock", std::process::id()));
        Process { path, _sessions: (listener, client, server) }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut stream = UnixStream::connect(&process().path).expect("the process answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    // It may hang up in the middle of what is too long.
    let _gone = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut reply = Vec::new();
    if let Err(error) = stream.read_to_end(&mut reply) {
        assert!(error.kind() == std::io::ErrorKind::ConnectionReset, "it hangs: {error}");
    }
    for line in reply.split_inclusive(|&byte| byte == b'\n') {
        assert!(line.ends_with(b"\n"), "half a line");
        serde_json::from_slice::<serde_json::Value>(line).expect("a line of JSON");
    }
});
