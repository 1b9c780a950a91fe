//! What the stat cache remembers, what it must not, and what a damaged file does to it.

use std::fs;

use super::super::stat_table::split_entry;
use super::*;

fn status(seconds: i64) -> FileStatus {
    let time = Timestamp { seconds, nanoseconds: 7 };
    FileStatus { device: 1, inode: 2, changed: time, modified: time, size: 3, mode: 0o100_644 }
}

fn digest(text: &str) -> Known {
    Known { digest: blake3::hash(text.as_bytes()), plain: false }
}

/// How many entries a cache file has.
fn count(file: &Path) -> usize {
    let table = StatTable::open(file).unwrap();
    let blocks: Vec<_> = (0..table.len()).map(|number| table.block(number).unwrap()).collect();
    let entries = blocks.iter().flat_map(|block| runs(block)).map(|run| {
        let mut rest = run.entries;
        std::iter::from_fn(|| split_entry(rest).map(|(_, _, after)| rest = after)).count()
    });
    entries.sum()
}

const NOW: Timestamp = Timestamp::from_seconds(1000);

/// Looks up all of these names of a directory, and learns those that are not known.
fn visit(cache: &StatCache, directory: &str, names: &[String], status: &FileStatus) -> usize {
    let mut facts = cache.directory(directory.as_bytes());
    let mut found = 0;
    for name in names {
        match facts.find(name.as_bytes()).and_then(|fact| known(&fact, status)) {
            Some(known) => {
                found += 1;
                facts.keep(name.as_bytes(), status, known);
            }
            None => facts.learn(name.as_bytes(), status, digest(name)),
        }
    }
    facts.finish();
    found
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("file-{number:05}")).collect()
}

#[test]
fn remembers_across_processes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    let cache = StatCache::load(&file, NOW);
    assert_eq!(cache.look_up(b"a", &status(5)), None);
    for path in [&b"b"[..], b"a", b"a/c"] {
        cache.record(path, &status(5), digest("x"));
    }
    cache.record(b"young", &status(1000), digest("x"));
    cache.save().unwrap();
    let cache = StatCache::load(&file, NOW);
    assert_eq!(count(&file), 3);
    assert_eq!(cache.look_up(b"a/c", &status(5)), Some(digest("x")));
    assert_eq!(cache.look_up(b"a/c", &status(6)), None);
    assert_eq!(cache.look_up(b"a/c", &FileStatus { inode: 9, ..status(5) }), None);
    assert_eq!(cache.look_up(b"young", &status(1000)), None);
    cache.record(b"a", &status(6), digest("y"));
    assert_eq!(cache.look_up(b"a", &status(6)), Some(digest("y")));
    cache.save().unwrap();
    let cache = StatCache::load(&file, NOW);
    assert_eq!(cache.look_up(b"a", &status(6)), Some(digest("y")));
    assert_eq!(cache.look_up(b"b", &status(5)), Some(digest("x")));
}

#[test]
fn directories_of_every_size_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    // The second one needs several blocks; the names of the others sort around it.
    let directories = [("", 3), ("big", 3000), ("big/in", 1), ("big-", 700), ("c", 1), ("d/e", 5)];
    for round in 0..3 {
        let cache = StatCache::load(&file, NOW);
        for (directory, count) in directories {
            let found = visit(&cache, directory, &names(count), &status(5));
            assert_eq!(found, if round == 0 { 0 } else { count }, "{directory} {round}");
        }
        assert_eq!(cache.news.lock().unwrap().fresh().len(), if round == 0 { 6 } else { 0 });
        cache.save().unwrap();
    }
    assert!(StatTable::open(&file).unwrap().len() > 5);
    let cache = StatCache::load(&file, NOW);
    assert_eq!(cache.look_up(b"big/file-02999", &status(5)), Some(digest("file-02999")));
    assert_eq!(cache.look_up(b"big/file-03000", &status(5)), None);
    assert_eq!(cache.look_up(b"none/file-00000", &status(5)), None);
    // A directory that lost a file, and got one, leaves the others as they are.
    let mut changed = names(3000);
    changed.remove(1500);
    changed.push("last".to_owned());
    assert_eq!(visit(&cache, "big", &changed, &status(5)), 2999);
    assert_eq!(visit(&cache, "big", &changed, &status(5)), 3000, "the news count at once");
    cache.save().unwrap();
    assert_eq!(count(&file), 3 + 3000 + 1 + 700 + 1 + 5);
    assert_eq!(visit(&StatCache::load(&file, NOW), "big-", &names(700), &status(5)), 700);
}

#[test]
fn what_is_damaged_is_absent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    let cache = StatCache::load(&file, NOW);
    let both =
        |cache: &StatCache| visit(cache, "a", &names(200), &status(5)) + visit(cache, "b", &names(200), &status(5));
    assert_eq!(both(&cache), 0);
    cache.save().unwrap();
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 20).chain([whole.len() - 1]) {
        fs::write(&file, &whole[..at]).unwrap();
        assert!(StatTable::open(&file).is_none(), "cut at {at}");
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let cache = StatCache::load(&file, NOW);
        assert!(both(&cache) < 400, "flipped at {at}");
        // Building again heals it.
        cache.save().unwrap();
        assert_eq!(both(&StatCache::load(&file, NOW)), 400);
    }
}

#[test]
fn directories_nobody_asks_for_go_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    for round in 0..=i64::from(OLDEST) + 2 {
        let cache = StatCache::load(&file, NOW);
        if round == 0 {
            visit(&cache, "old", &names(2), &status(5));
            visit(&cache, "used", &names(2), &status(5));
        }
        visit(&cache, "busy", &names(1), &status(round));
        visit(&cache, "used", &names(2), &status(5));
        cache.save().unwrap();
    }
    assert_eq!(count(&file), 3);
}

#[test]
fn what_changed_about_now_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    let at = |changed, modified| FileStatus { changed, modified, ..status(5) };
    for (what, status, kept) in [
        ("well before", at(time(900, 1), time(900, 1)), true),
        ("in the same tick", at(time(999, 990_000_000), time(999, 990_000_000)), false),
        ("the time of its contents set back", at(time(1000, 1), time(5, 0)), false),
        ("written later than now, as by a clock that was set back", at(time(2000, 5), time(2000, 5)), false),
        ("the time of its contents set to the future", at(time(900, 5), time(2000, 5)), false),
        ("set to the far future", at(time(900, 5), time(100_000, 5)), true),
        ("set to the far future just now", at(time(1000, 5), time(100_000, 5)), false),
        ("whole seconds, a second ago", at(time(999, 0), time(999, 0)), false),
        ("whole seconds, two seconds ago", at(time(998, 0), time(998, 0)), true),
    ] {
        let cache = StatCache::load(&file, NOW);
        cache.record(b"f", &status, digest("x"));
        assert_eq!(cache.look_up(b"f", &status).is_some(), kept, "{what}");
        visit(&cache, "d", &names(1), &status);
        assert_eq!(visit(&cache, "d", &names(1), &status), usize::from(kept), "{what}");
    }
}

/// Numbers that look random, the same each time.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut bytes = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    move |below| {
        let mut next = [0; 8];
        bytes.fill(&mut next);
        u64::from_le_bytes(next) % below
    }
}

/// As a walk does it: some names are looked up, and then kept or learnt in their order.
#[test]
fn after_any_edits_each_file_is_learnt_once() {
    const YOUNG: i64 = 1000;
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..6 {
        let mut random = random(seed);
        let file = folder.path().join(seed.to_string());
        let count = if seed == 0 { 6000 } else { 900 };
        let mut files: Vec<(String, i64)> = names(count).into_iter().map(|name| (name, 1)).collect();
        for round in 0..12 {
            for _ in 0..random(4) {
                let at = random(files.len() as u64) as usize;
                match random(4) {
                    0 => drop(files.remove(at)),
                    1 => files.insert(at + 1, (format!("{}-{round}", files[at].0), 1)),
                    2 => files[at].1 = YOUNG,
                    _ => files[at].1 += 1,
                }
            }
            for again in [false, true] {
                let cache = StatCache::load(&file, NOW);
                let mut facts = cache.directory(b"d");
                let mut learnt = 0;
                for batch in files.chunks(50) {
                    let find = |(name, seconds): &(String, i64)| {
                        facts.find(name.as_bytes()).and_then(|fact| known(&fact, &status(*seconds)))
                    };
                    let found: Vec<_> = batch.iter().map(find).collect();
                    for ((name, seconds), found) in batch.iter().zip(found) {
                        if let Some(known) = found {
                            facts.keep(name.as_bytes(), &status(*seconds), known);
                        } else {
                            facts.learn(name.as_bytes(), &status(*seconds), digest(name));
                            learnt += usize::from(*seconds != YOUNG);
                        }
                    }
                }
                facts.finish();
                assert!(!again || learnt == 0, "{learnt} of round {round} of {seed} are learnt twice");
                assert!(!again || cache.news.lock().unwrap().is_empty(), "round {round} of {seed}");
                cache.save().unwrap();
            }
        }
    }
}
