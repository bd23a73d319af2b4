use super::Verdict;
use super::figures_tests::assert_well_formed;
use super::transfer::judge;

const HEADER: &str = "group,links,bandwidth,mib,site,strategy,round,seconds,ideal_s,fraction,sent_over_needed,\
                      first_finish_s,last_finish_s,first_chunk_s,tail_ms,hash_ms\n";

/// Group A, all sites: `pull` in the given seconds over the ideal ones, `equal` in the paper's.
fn runs(seconds: f64, sent: f64, last: f64, tail_ms: f64) -> String {
    let mut out = String::from(HEADER);
    for (site, ideal, equal) in
        [("Sydney", 63.2, 84.0), ("SaoPaulo", 41.7, 83.0), ("NVirginia", 25.2, 49.1), ("Ireland", 29.8, 65.2)]
    {
        let took = ideal * seconds;
        let fraction = 1.0 / seconds;
        out += &format!(
            "A,constant,1,1000,{site},pull,0,{took},{ideal},{fraction},{sent},10,{last},0.5,{tail_ms},200\n"
        );
        out += &format!("A,constant,1,1000,{site},equal,0,{equal},{ideal},0.5,1.001,10,20,0.5,5,200\n");
    }
    out
}

#[track_caller]
fn verdicts(runs: &str) -> Vec<Verdict> {
    let (verdicts, pages) = judge(runs).unwrap();
    pages.iter().for_each(|page| assert_well_formed(page));
    verdicts
}

#[track_caller]
fn broken(runs: &str) -> Vec<(String, &'static str)> {
    verdicts(runs).into_iter().filter(|v| !v.holds).map(|v| (v.of, v.claim)).collect()
}

#[test]
fn verdicts_of_transfers_follow_the_table() {
    // Per site: fraction, reduction, spread, bytes, hashing; and the mean.
    assert_eq!(verdicts(&runs(1.01, 1.001, 10.1, 5.0)).len(), 4 * 5 + 1);
    assert_eq!(broken(&runs(1.01, 1.001, 10.1, 5.0)), vec![]);
    let all_of = |runs: &str, part: &str| {
        let broken = broken(runs);
        assert!(broken.iter().all(|(_, claim)| claim.contains(part)), "{broken:?}");
        broken.len()
    };
    assert_eq!(all_of(&runs(1.01, 1.03, 10.1, 5.0), "1.02 times the state"), 4);
    assert_eq!(all_of(&runs(1.01, 1.001, 10.3, 5.0), "last source"), 4);
    assert_eq!(all_of(&runs(1.01, 1.001, 10.1, 11.0), "hashing"), 4);
    // A fifth too slow: the fraction and the reductions.
    let slow = broken(&runs(1.2, 1.001, 10.1, 5.0));
    assert_eq!(slow.iter().filter(|(_, claim)| claim.contains("0.97")).count(), 4);
    assert!(slow.iter().any(|(of, claim)| of.contains("Sydney") && claim.contains("22 %")), "{slow:?}");
    assert!(slow.iter().any(|(of, claim)| of.contains("all sites") && claim.contains("42 %")), "{slow:?}");
}

#[test]
fn medians_are_judged_and_other_links_are_other_cases() {
    let mut three = String::from(HEADER);
    for (round, fraction) in [0.5, 0.91, 0.95].into_iter().enumerate() {
        three += &format!("B,varying,1,1000,Paris,pull,{round},3,2.8,{fraction},1.001,10,10.1,0.1,5,200\n");
    }
    assert_eq!(broken(&three), vec![]);
    assert_eq!(broken(&three.replace("0.91", "0.89")).len(), 1);
    let abrupt = three.replace("varying", "abrupt").replace("B,", "A,");
    assert_eq!((broken(&abrupt), broken(&abrupt.replace("0.91", "0.89")).len()), (vec![], 1));
    let constant = "B,constant,1,1000,Paris,pull,0,3,2.8,0.1,1.001,10,10.1,0.1,5,200\n";
    let (verdicts, pages) = judge(&(three + constant)).unwrap();
    assert_eq!((pages.len(), verdicts.iter().filter(|v| v.claim.contains("0.90")).count()), (2, 1));
    let wrong = runs(1.01, 1.001, 10.1, 5.0).replacen(",pull,0,", ",pull,0,many", 1);
    assert!(judge(&wrong).unwrap_err().contains("line 2"));
}
