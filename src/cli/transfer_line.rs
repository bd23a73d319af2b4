//! A state transfer under way, in one line: how far, from whom how fast, how long yet.

use serde_json::Value;

use super::status::short;

/// Cells of the bar.
const CELLS: u64 = 20;

/// From a replica's status; `None`: it fetches nothing.
pub fn line(status: &Value) -> Option<String> {
    let transfer = &status["transfer"];
    let phase = transfer["phase"].as_str().filter(|phase| !phase.is_empty())?;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    if phase == "asking" {
        return Some("asks the others for a state".into());
    }
    let place = number(&transfer["target"]);
    let (done, all) = (number(&transfer["chunks"][0]), number(&transfer["chunks"][1]));
    if phase != "chunks" || all == 0 {
        return Some(format!("state of place {place}: {phase}"));
    }
    let full = (done * CELLS / all) as usize;
    let bar: String = (0..CELLS as usize).map(|cell| if cell < full { '#' } else { '.' }).collect();
    let left = transfer["eta_ms"].as_u64();
    let left = left.map_or(String::new(), |ms| format!(", about {} s left", ms.div_ceil(1000)));
    let sources: Vec<String> = transfer["sources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|source| {
            let (id, rate) = (number(&source["replica"]), number(&source["bytes_per_s"]));
            // With a reason in parentheses, if there is one.
            match source["state"].as_str().and_then(|state| state.split('(').next()) {
                Some("active") | None => format!("r{id} {}/s", short(rate)),
                Some(state) => format!("r{id} {state}"),
            }
        })
        .collect();
    Some(format!(
        "state of place {place} [{bar}] {} %, {} received{left}; {}",
        done * 100 / all,
        short(number(&transfer["bytes"])),
        sources.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::line;

    #[test]
    fn a_transfer_is_told_in_one_line() {
        let transfer = json!({
            "phase": "chunks", "target": 4096, "chunks": [300, 1000], "bytes": 31_457_280, "eta_ms": 2100,
            "sources": [
                { "replica": 0, "bytes": 1, "bytes_per_s": 10_485_760, "state": "active" },
                { "replica": 2, "bytes": 1, "bytes_per_s": 0, "state": "banned(badchunk { chunk: 7 })" },
            ],
        });
        assert_eq!(
            line(&json!({ "transfer": transfer })).as_deref(),
            Some(
                "state of place 4096 [######..............] 30 %, 30.0 MiB received, about 3 s left; r0 10.0 MiB/s, r2 banned"
            )
        );
        let without = |key: &str, value: serde_json::Value| {
            let mut transfer = transfer.clone();
            transfer[key] = value;
            line(&json!({ "transfer": transfer }))
        };
        assert_eq!(without("phase", json!("")), None);
        assert_eq!(without("phase", json!("asking")).as_deref(), Some("asks the others for a state"));
        assert_eq!(without("phase", json!("installing")).as_deref(), Some("state of place 4096: installing"));
        assert!(without("eta_ms", json!(null)).is_some_and(|line| !line.contains("left")));
        assert_eq!(line(&json!({})), None);
    }
}
