//! The pools' tables in JSON, for `evs dedup`.

use serde_json::{Value, json};

use crate::pool::TableRow;
use crate::state::Metrics;

/// All pools of the process.
pub(crate) fn json(pools: impl Iterator<Item = (Vec<TableRow>, Metrics)>) -> String {
    let pools: Vec<Value> = pools
        .map(|(rows, metrics)| {
            let rows: Vec<Value> = rows.iter().map(row).collect();
            json!({ "rows": rows, "metrics": count(&metrics) })
        })
        .collect();
    Value::from(pools).to_string()
}

fn row(TableRow { row, line, session, epoch }: &TableRow) -> Value {
    let hex: String = session.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "management": row.management,
        "application": row.application,
        "requested": row.requested,
        "address": row.address.map(|addr| addr.to_string()),
        "server": row.server.map(|server| server.to_string()),
        "session": (row.session.is_some()).then_some(hex),
        "epoch": epoch,
        "state": row.state,
        "references": row.references,
        "why": row.why.name(),
        "rtt_min_us": line.rtt_min_us,
        "rtt_us": line.rtt_us,
        "loss_ppm": line.loss_ppm,
        "rate_bps": line.rate_bps,
        "link_mbps": line.link_mbps,
        "hops": line.hops,
        "mtu": line.mtu,
    })
}

fn count(metrics: &Metrics) -> Value {
    let refused: serde_json::Map<String, Value> = metrics
        .refused
        .iter()
        .map(|(why, count)| (why.name().to_owned(), Value::from(*count)))
        .collect();
    json!({
        "opens": metrics.opens,
        "sessions_opened": metrics.sessions_opened,
        "sessions_saved": metrics.sessions_saved,
        "late_merges": metrics.late_merges,
        "query_hits": metrics.query_hits,
        "forged": metrics.forged,
        "migrations": metrics.migrations,
        "migrations_failed": metrics.migrations_failed,
        "failovers": metrics.failovers,
        "resets_by_boot": metrics.resets_by_boot,
        "goaways": metrics.goaways,
        "misdirected": metrics.misdirected,
        "refused": refused,
    })
}
