//! Runs seeds: `campaign COUNT BASE`.
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let mut total = eversock_sim::Stats::default();
    let began = std::time::Instant::now();
    let mut slow = (0f64, 0);
    let (mut ev, mut found) = (0, 0);
    for seed in args[1]..args[1] + args[0] {
        let t = std::time::Instant::now();
        let outcome = eversock_sim::run(seed, &Default::default());
        let took = t.elapsed().as_secs_f64();
        if took > slow.0 { slow = (took, seed); }
        ev += outcome.events;
        total.add(&outcome.stats);
        if let Some(finding) = outcome.finding {
            found += 1;
            if found <= 1 { println!("{finding}"); } else { println!("seed {seed} {}", finding.what); }
            if found > 25 { break; }
        }
    }
    println!("{total:?}\n{} per second, {ev} events, slowest {slow:?}, found {found}", args[0] as f64 / began.elapsed().as_secs_f64());
}
