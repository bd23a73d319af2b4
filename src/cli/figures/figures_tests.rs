use super::Verdict;
use super::checkpoint::judge;
use super::csv::Table;
use super::svg::{Band, Page, Panel, Series};

/// Every tag that is opened is closed, in order; attributes are quoted and nothing is left over.
#[track_caller]
pub(super) fn assert_well_formed(svg: &str) {
    let (mut open, mut rest) = (Vec::new(), svg);
    while let Some(at) = rest.find('<') {
        let inside = &rest[..at];
        assert!(!inside.contains('>'), "a bare > in {inside:?}");
        assert!(
            inside.split('&').skip(1).all(|e| ["amp;", "lt;", "gt;"].iter().any(|x| e.starts_with(x))),
            "{inside:?}"
        );
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
        match (tag.strip_prefix('/'), tag.ends_with('/')) {
            (Some(name), _) => assert_eq!(open.pop().as_deref(), Some(name), "{tag}"),
            (None, true) => {}
            (None, false) => open.push(tag.split(' ').next().unwrap().to_owned()),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}");
}

#[test]
fn a_table_is_read_back_as_it_was_written() {
    let mut table = Table::new(&["name", "value"]);
    table.push(&[&"a b", &1.5]);
    table.push(&[&"", &-3]);
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("t.csv");
    table.write(&file).unwrap();
    assert_eq!(Table::read(&file).unwrap(), table);
    let row = table.rows().next().unwrap();
    assert_eq!((row.text("name"), row.number("value")), (Ok("a b"), Ok(1.5)));
    assert!(row.number("name").unwrap_err().contains("line 2"));
    assert!(row.text("other").is_err());
    for wrong in ["", "a,b\n1\n"] {
        assert!(Table::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_page_is_well_formed_whatever_it_shows() {
    let panel = |points: Vec<(f64, f64)>, bands| Panel {
        title: "a < b & c".into(),
        y_label: "ops/s".into(),
        series: vec![Series { name: "x > y".into(), points }],
        bands,
        ..Panel::default()
    };
    let band = Band { kind: 5, from: 1.0, to: 99.0 };
    let panels =
        vec![panel(vec![(0.0, 1.0), (2.0, 30_000.0)], vec![band]), panel(vec![], vec![]), Panel::default()];
    let page = Page {
        title: "t & u".into(),
        notes: vec!["n".into()],
        x_label: "seconds".into(),
        x_max: 2.0,
        bands: vec!["<r>".into()],
        panels,
    };
    let svg = page.svg();
    assert_well_formed(&svg);
    // Text stays text, escaped.
    assert!(svg.contains(">a &lt; b &amp; c</text>") && svg.contains(">30000</text>"), "{svg}");
    assert_eq!(svg.matches("<polyline").count(), 2);
    assert_well_formed(&Page { x_max: 0.0, panels: vec![Panel::default()], ..page }.svg());
}

/// Three runs of four seconds; `dip` is what the last one does in its worst second.
fn tables(outage_bins: usize, dip: u32, p999: u32, overlap: bool) -> (String, String, String) {
    let ways = [
        "no checkpoints",
        "synchronized stop-the-world",
        "sequential stop-the-world",
        "sequential copy-on-write",
    ];
    let mut runs = String::from("state_mb,load,way,ops_per_s,p999_us\n");
    let mut bins = String::from("state_mb,load,way,at_ms,operations,p50_us,p99_us,max_us\n");
    let mut bands = String::from("state_mb,load,way,replica,from_ms,to_ms\n");
    for (i, way) in ways.iter().enumerate() {
        let p999 = if i == 3 { p999 } else { 30_000 };
        runs += &format!("500,high,{way},10000,{p999}\n");
        for bin in 0..40 {
            let operations = match i {
                1 if (10..10 + outage_bins).contains(&bin) => 0,
                3 if (10..20).contains(&bin) => dip,
                _ => 1000,
            };
            bins += &format!("500,high,{way},{},{operations},1000,2000,30000\n", bin * 100);
        }
        if i > 0 {
            let second = if i == 1 || overlap { 1200 } else { 2000 };
            bands += &format!("500,high,{way},0,1000,1500\n500,high,{way},1,{second},{}\n", second + 400);
        }
    }
    (runs, bins, bands)
}

#[track_caller]
fn holds(tables: (String, String, String)) -> Vec<bool> {
    let (verdicts, pages) = judge(&tables.0, &tables.1, &tables.2).unwrap();
    pages.iter().for_each(|page| assert_well_formed(page));
    assert_eq!((pages.len(), verdicts.len()), (1, 6));
    verdicts.iter().map(|Verdict { holds, .. }| *holds).collect()
}

#[test]
fn verdicts_follow_the_tables() {
    assert_eq!(holds(tables(15, 950, 40_000, false)), [true, true, true, true, true, true]);
    // No outage in the baseline: not the paper's shape.
    assert_eq!(holds(tables(0, 950, 40_000, false)), [false, true, true, true, true, true]);
    assert_eq!(holds(tables(15, 850, 40_000, false)), [true, true, false, true, true, true]);
    assert_eq!(holds(tables(15, 950, 61_000, false)), [true, true, true, true, false, true]);
    assert_eq!(holds(tables(15, 950, 40_000, true)), [true, true, true, true, true, false]);
    let (runs, bins, bands) = tables(15, 950, 40_000, false);
    let (usual, slow) = ("copy-on-write,500,1000,1000,2000,30000", "copy-on-write,500,1000,1000,2000,150000");
    assert!(bins.contains(usual));
    let slow = bins.replacen(usual, slow, 1);
    assert_eq!(holds((runs, slow, bands)), [true, true, true, false, true, true]);
    // Nothing is said of checkpoints that were not written.
    let (runs, bins, _) = tables(15, 950, 40_000, false);
    assert!(!holds((runs, bins, "state_mb,load,way,replica,from_ms,to_ms\n".into()))[2]);
}

#[test]
fn tables_that_make_no_sense_are_refused_with_their_place() {
    let (runs, bins, bands) = tables(15, 950, 40_000, false);
    let wrong = bins.replacen(",0,1000,", ",0,many,", 1);
    assert!(judge(&runs, &wrong, &bands).unwrap_err().contains("line 2"));
}
