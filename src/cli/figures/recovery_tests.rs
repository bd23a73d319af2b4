use super::Verdict;
use super::figures_tests::assert_well_formed;
use super::recovery::judge;

const KEY: &str = "replicas,state_mb,strategy,from,floor_mib,round";

/// Four seconds with all, four without one, `recovery` tenths at `during`, two seconds after.
fn tables(during: u32, recovery: u32, single_ms: u32, pull_ms: u32, recovered: bool) -> [String; 4] {
    let mut runs = format!("{KEY},transfer_ms,transfer_bytes,sources,lowered,recovered,errors\n");
    let mut bins = format!("{KEY},at_ms,operations,p50_us,p99_us,max_us\n");
    let mut bands = format!("{KEY},what,from_ms,to_ms\n");
    let mut looks = format!("{KEY},at_ms,received_bytes,bound_bytes_per_s\n");
    for (strategy, ms) in [("single", single_ms), ("pull", pull_ms)] {
        let key = format!("4,500,{strategy},others,8,0");
        runs += &format!("{key},{ms},500000000,1 2,3,{},0\n", u32::from(recovered));
        let end = 80 + recovery;
        for bin in 0..end + 20 {
            let operations = match bin {
                // The second of the kill does not count.
                40..50 => 0,
                50..80 => 1000,
                at if (80..end).contains(&at) => during,
                _ => 1200,
            };
            bins += &format!("{key},{},{operations},1000,2000,30000\n", bin * 100);
        }
        bands += &format!("{key},down,4000,8000\n{key},recovery,8000,{}\n", end * 100);
        bands += &format!("{key},transfer,8100,{}\n", end * 100 - 100);
        looks += &format!("{key},8100,0,0\n{key},8200,250000000,8388608\n");
    }
    [runs, bins, bands, looks]
}

#[track_caller]
fn verdicts(tables: &[String; 4]) -> Vec<Verdict> {
    let (verdicts, pages) = judge(tables.each_ref().map(String::as_str)).unwrap();
    pages.iter().for_each(|page| assert_well_formed(page));
    assert_eq!((pages.len(), verdicts.len()), (1, 3));
    verdicts
}

#[track_caller]
fn holds(tables: [String; 4]) -> Vec<bool> {
    verdicts(&tables).into_iter().map(|verdict| verdict.holds).collect()
}

#[test]
fn verdicts_of_recoveries_follow_the_tables() {
    assert_eq!(holds(tables(800, 20, 3000, 2500, true)), [true, true, true]);
    assert_eq!(holds(tables(790, 20, 3000, 2500, true)), [false, false, true]);
    assert_eq!(holds(tables(800, 20, 2500, 2501, true)), [true, true, false]);
    let words = &verdicts(&tables(900, 20, 3000, 2500, true))[0].ours;
    assert!(words.contains("9000 ops/s of 10000 (all replicas: 12000 before, 12000 after), 90 %, for 2.0 s"));
}

#[test]
fn who_did_not_recover_shows_nothing_good() {
    let (verdicts, _) = judge(tables(1000, 20, 3000, 2500, false).each_ref().map(String::as_str)).unwrap();
    assert!(verdicts.len() == 2 && verdicts.iter().all(|verdict| !verdict.holds), "{verdicts:?}");
}

#[test]
fn spans_that_there_are_not_are_refused() {
    let [runs, bins, bands, looks] = tables(800, 20, 3000, 2500, true);
    let wrong = bands.replacen("down", "up", 1);
    assert!(judge([&runs, &bins, &wrong, &looks]).unwrap_err().contains("`up`"));
}
