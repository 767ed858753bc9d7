//! The shortest way through everything.
use eversock::{VirtualListener, VirtualStream};
use std::io::{Read, Write};

#[test]
fn an_echo_comes_back_and_ends_come_through() {
    let _ = env_logger::builder().is_test(true).try_init();
    let listener = VirtualListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
        all.len()
    });
    let mut stream = VirtualStream::connect(addr).unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    stream.write_all(&data).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(server.join().unwrap(), data.len());
    assert!(back == data);
}
