//! Replays one seed.
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let outcome = eversock_sim::run(args[0], &eversock_sim::Options { trace: true, bug: None });
    for line in outcome.trace { println!("{line}"); }
    if let Some(finding) = outcome.finding { println!("{} {}", finding.at, finding.what); }
    println!("{:?}", outcome.stats);
}
