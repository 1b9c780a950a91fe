//! Programs for other processors: what the kernel hands to an emulator (`binfmt_misc`).

use std::io::Read;

use rustix::fs::{Mode, OFlags};

/// Where the kernel lists its handlers, one file each.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";
/// The most that is read of a handler's description; real ones have a few hundred bytes.
const DESCRIPTION_LIMIT: u64 = 64 << 10;
/// Where an ELF file says which processor it is for, bytes (ELF specification, "ELF Header").
const MACHINE: std::ops::Range<usize> = 18..20;

/// Whether an emulator for an architecture is set up, in a way that works with another root directory.
///
/// `architecture` is a name of Go's `GOARCH`. For one that is not known here the answer is no.
#[must_use]
pub fn has_emulator(architecture: &str) -> bool {
    let Some(machine) = machine(architecture) else { return false };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(HANDLERS, flags, Mode::empty()) else { return false };
    let Ok(entries) = rustix::fs::Dir::read_from(&folder) else { return false };
    entries.flatten().filter(|entry| entry.file_name() != c"register" && entry.file_name() != c"status").any(|entry| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&folder, entry.file_name(), flags, Mode::empty()) else { return false };
        let mut text = String::new();
        let read = std::fs::File::from(file).take(DESCRIPTION_LIMIT).read_to_string(&mut text);
        read.is_ok() && handles(&text, machine)
    })
}

/// Whether a handler is on, is for ELF files of that machine, and was opened when it was registered: one that is looked
/// up by its path would not be found in a step.
fn handles(description: &str, machine: [u8; 2]) -> bool {
    let value = |key: &str| description.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let magic: Vec<u8> = value("magic ")
        .unwrap_or_default()
        .as_bytes()
        .chunks(2)
        .map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    description.lines().next() == Some("enabled")
        && magic.starts_with(b"\x7fELF")
        && magic.get(MACHINE) == Some(&machine)
        && value("flags:").is_some_and(|flags| flags.contains('F'))
}

/// The number of a processor in ELF files, in the byte order of that processor.
fn machine(architecture: &str) -> Option<[u8; 2]> {
    let (number, big_endian): (u16, bool) = match architecture {
        "386" => (3, false),
        "amd64" => (62, false),
        "arm" => (40, false),
        "arm64" => (183, false),
        "loong64" => (258, false),
        "mips" | "mips64" => (8, true),
        "mipsle" | "mips64le" => (8, false),
        "ppc64" => (21, true),
        "ppc64le" => (21, false),
        "riscv64" => (243, false),
        "s390x" => (22, true),
        _ => return None,
    };
    Some(if big_endian { number.to_be_bytes() } else { number.to_le_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn handlers_are_read() {
        let arm64 = machine("arm64").unwrap();
        assert!(handles(ARM, arm64));
        assert!(!handles(ARM, machine("riscv64").unwrap()));
        assert!(!handles(&ARM.replace("enabled", "disabled"), arm64));
        assert!(!handles(&ARM.replace("POCF", "POC"), arm64), "it would be looked for in the step's own root");
        assert!(!handles("enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic cb0d0d0a\n", arm64));
        assert!(!handles("", arm64));
        assert_eq!(machine("s390x"), Some([0, 22]));
    }

    #[test]
    fn an_unknown_processor_has_no_emulator() {
        assert!(!has_emulator("abacus"));
    }
}
