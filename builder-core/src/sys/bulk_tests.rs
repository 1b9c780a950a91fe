use std::fs;
use std::io::Write as _;

use super::*;

const WAYS: [Way; 2] = [Way::Cached, Way::Direct];

fn always(way: Way) -> Pace {
    let pace = Pace::default();
    pace.fix(way);
    pace
}

/// Bytes that tell where they are.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 4096 * 7 + n % 4096 * 3 + n / 13) as u8).collect()
}

fn file(folder: &tempfile::TempDir) -> File {
    File::options().read(true).write(true).create_new(true).open(folder.path().join("file")).unwrap()
}

/// Numbers below `limit`, the same each time.
fn numbers(limit: usize) -> impl FnMut() -> usize {
    let mut state = 88_172_645_463_325_252_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % limit
    }
}

#[test]
fn the_faster_way_is_taken_and_the_other_tried_now_and_then() {
    let second = Duration::from_secs(1);
    for (cached, direct, want) in
        [(1, 1, Way::Cached), (10, 1, Way::Direct), (1, 10, Way::Cached), (19, 10, Way::Cached), (21, 10, Way::Direct)]
    {
        let pace = Pace::default();
        let mut taken = Vec::new();
        for _ in 0..3000 {
            let way = pace.choose();
            pace.note(way, 1 << 20, second * if way == Way::Cached { cached } else { direct });
            taken.push(way);
        }
        assert_eq!(taken[..2], WAYS, "each is tried first");
        let others: Vec<usize> = (2..3000).filter(|index| taken[*index] != want).collect();
        // The first trial is at once; then they grow rarer.
        let gaps: Vec<usize> = others.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[..3], [9, 17, 33], "{cached} {direct}: {others:?}");
        assert!(others.len() < 12, "{others:?}");
    }
}

#[test]
fn where_the_cache_is_fast_nothing_else_is_tried() {
    let pace = Pace::default();
    for took in [200, 700, 300, 790, 100] {
        assert_eq!(pace.choose(), Way::Cached);
        pace.note(Way::Cached, 1000, Duration::from_nanos(took));
    }
    assert_eq!(pace.choose(), Way::Cached);
    pace.note(Way::Cached, 1000, Duration::from_micros(3));
    assert_eq!(pace.choose(), Way::Direct);
}

#[test]
fn a_machine_that_changes_is_noticed() {
    let pace = Pace::default();
    let go = |cached: u64, pieces| {
        let mut ways = [0; 2];
        for _ in 0..pieces {
            let way = pace.choose();
            pace.note(way, 1, Duration::from_micros(if way == Way::Cached { cached } else { 100 }));
            ways[usize::from(way == Way::Direct)] += 1;
        }
        ways
    };
    assert!(go(10, 200)[0] > 190);
    let [cached, direct] = go(1000, 200);
    assert!(direct > 180, "{cached} {direct}");
    assert!(go(10, 3000)[0] > 1000);
}

#[test]
fn a_file_system_that_refuses_is_asked_once() {
    let pace = always(Way::Direct);
    let mut asked = 0;
    for _ in 0..3 {
        let by = |way| {
            asked += usize::from(way == Way::Direct);
            Ok(way == Way::Cached)
        };
        assert_eq!(pace.go(1, by).unwrap(), Way::Cached);
    }
    assert_eq!(asked, 1);
    let full = always(Way::Direct).go(1, |way| {
        assert_eq!(way, Way::Direct, "another error is no refusal");
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    });
    assert_eq!(full.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn pieces_written_and_read_either_way_are_the_same() {
    const LENGTH: usize = (5 << 20) + 777;
    let want = bytes(LENGTH);
    for written in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let bulk = BulkFile::new(file(&folder), Some(always(written)));
        let is_possible = reopen(bulk.file(), OFlags::WRONLY).is_some();
        let mut buffer = PageBuffer::default();
        buffer.grow(1 << 20);
        for number in [3, 0, 5, 1, 4, 2] {
            let piece = &want[number << 20..LENGTH.min((number + 1) << 20)];
            buffer[..piece.len()].copy_from_slice(piece);
            let way = bulk.write_all_at(&buffer[..piece.len()], (number << 20) as u64).unwrap();
            let is_large = piece.len() >= SMALLEST;
            assert_eq!(way == Way::Direct, written == Way::Direct && is_possible && is_large, "piece {number}");
        }
        assert!(fs::read(folder.path().join("file")).unwrap() == want, "written {written:?}");
        let mut next = numbers(LENGTH);
        let mut pages = PageBuffer::default();
        for read in WAYS {
            let pace = always(read);
            for _ in 0..30 {
                let offset = next();
                let length = next().min(LENGTH - offset);
                let mut found = vec![0; length];
                read_exact_at(bulk.file(), &pace, &mut found, offset as u64, &mut pages).unwrap();
                assert!(found == want[offset..offset + length], "{read:?} {offset} {length}");
            }
            let mut found = vec![0; 1 << 20];
            let beyond = read_exact_at(bulk.file(), &pace, &mut found, (LENGTH - (1 << 20) + 1) as u64, &mut pages);
            assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{read:?}");
            for offset in [0, 1 << 20, 4 << 20] {
                let count = read_at(bulk.file(), read, &mut buffer, offset as u64).unwrap();
                assert!(count > 0 && buffer[..count] == want[offset..offset + count], "{read:?} {offset}");
            }
            assert_eq!(read_at(bulk.file(), read, &mut buffer, 8 << 20).unwrap(), 0);
        }
    }
}

#[test]
fn a_stream_of_any_pieces_is_written_whole() {
    for most in [700, 70_000, 3 << 20] {
        for way in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = BulkWriter::new(file(&folder), always(way));
            let mut next = numbers(most);
            let want = bytes((4 << 20) + 4321);
            let mut rest = want.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(next().min(rest.len()));
                writer.write_all(now).unwrap();
                if next().is_multiple_of(50) {
                    writer.flush().unwrap();
                    assert_eq!(writer.file().metadata().unwrap().len(), (want.len() - later.len()) as u64);
                }
                rest = later;
            }
            writer.flush().unwrap();
            assert!(fs::read(folder.path().join("file")).unwrap() == want, "{most} {way:?}");
        }
    }
}

#[test]
fn a_small_file_is_there_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = BulkWriter::new(file(&folder), Pace::default());
    writer.write_all(b"some ").unwrap();
    writer.write_all(b"bytes").unwrap();
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"some bytes");
    assert_eq!(writer.piece.bytes.len(), 0);
}
