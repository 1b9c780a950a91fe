//! Gives up the copy of rbuild's memory that the step's first process inherited.
//!
//! The process lives as long as the step. Without this, every page that rbuild writes meanwhile would be copied first,
//! and secrets of other steps would stay readable to whoever takes this process over.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use crate::sys::call;

/// Smaller mappings are not worth a call, and the dynamic loader keeps its tables in such.
const SMALLEST: usize = 256 << 10;
/// Enough of a line of `maps` to see addresses, permissions and whether it is a file.
const LINE: usize = 128;

/// Empties the large anonymous mappings but the stack and the thread's own data.
///
/// Afterwards nothing on the heap may be used: what goes on here lives on the stack and makes raw system calls.
pub(super) fn forget() {
    let marker = 0u8;
    let keep = [(&raw const marker).addr(), call::thread_data()];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(maps) = rustix::fs::open(c"/proc/self/maps", flags, Mode::empty()) else { return };
    let mut buffer = [0u8; 4096];
    let mut line = [0u8; LINE];
    let mut length = 0;
    let mut file_end = 0;
    while let Ok(read @ 1..) = rustix::io::read(maps.as_fd(), &mut buffer) {
        for &byte in &buffer[..read] {
            if byte != b'\n' {
                if length < LINE {
                    line[length] = byte;
                    length += 1;
                }
                continue;
            }
            if let Some(mapping) = Mapping::parse(&line[..length]) {
                // What follows a file directly is the zeroed part of its data.
                if mapping.file || mapping.start == file_end {
                    file_end = mapping.end;
                } else if mapping.writable && mapping.end - mapping.start >= SMALLEST && !mapping.holds(&keep) {
                    // SAFETY: the heap and other threads' stacks, which this process does not use any more.
                    unsafe { call::discard(mapping.start, mapping.end) };
                }
            }
            length = 0;
        }
    }
}

/// One line of `/proc/self/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// Writable and private.
    writable: bool,
    file: bool,
}

impl Mapping {
    fn parse(line: &[u8]) -> Option<Self> {
        let (start, rest) = hexadecimal(line)?;
        let (end, rest) = hexadecimal(rest.strip_prefix(b"-")?)?;
        let rest = rest.strip_prefix(b" ")?;
        let writable = rest.starts_with(b"rw") && rest.get(3) == Some(&b'p');
        Some(Self { start, end, writable, file: rest.contains(&b'/') })
    }

    fn holds(&self, addresses: &[usize]) -> bool {
        addresses.iter().any(|address| (self.start..self.end).contains(address))
    }
}

fn hexadecimal(text: &[u8]) -> Option<(usize, &[u8])> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut number = 0usize;
    let mut length = 0;
    while let Some(value) = text.get(length).copied().and_then(digit) {
        number = number << 4 | usize::from(value);
        length += 1;
    }
    (length > 0).then(|| (number, &text[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let mapping = |start, end, writable, file| Some(Mapping { start, end, writable, file });
        let cases: [(&[u8], _); 5] = [
            (b"1000-2fff0 rw-p 00000000 00:00 0    [heap]", mapping(0x1000, 0x2_fff0, true, false)),
            (
                b"7f00a000-7f00b000 rw-p 00001000 fe:00 12   /lib/libc.so.6",
                mapping(0x7f00_a000, 0x7f00_b000, true, true),
            ),
            (b"7f00a000-7f00b000 rw-s 00000000 00:01 5", mapping(0x7f00_a000, 0x7f00_b000, false, false)),
            (b"7f00a000-7f00b000 r--p 00000000 00:00 0", mapping(0x7f00_a000, 0x7f00_b000, false, false)),
            (b"nonsense", None),
        ];
        for (line, want) in cases {
            assert_eq!(Mapping::parse(line), want);
        }
    }
}
