//! Programs for other processors: what the kernel hands to an emulator (`binfmt_misc`).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::mount::descriptor_path;

/// Where the kernel lists its handlers, one file each.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";
/// The most that is read of a handler's description; real ones have a few hundred bytes.
const DESCRIPTION_LIMIT: u64 = 64 << 10;
/// Where an ELF file says whether it is a 32-bit (1) or a 64-bit one (2) (ELF specification, "ELF Header").
const CLASS: usize = 4;
/// Where an ELF file says which processor it is for, bytes.
const MACHINE: std::ops::Range<usize> = 18..20;

/// Processors by their names in Go's `GOARCH`: number in ELF files, 64-bit, big-endian.
const PROCESSORS: [(&str, u16, bool, bool); 13] = [
    ("386", 3, false, false),
    ("amd64", 62, true, false),
    ("arm", 40, false, false),
    ("arm64", 183, true, false),
    ("loong64", 258, true, false),
    ("mips", 8, false, true),
    ("mips64", 8, true, true),
    ("mips64le", 8, true, false),
    ("mipsle", 8, false, false),
    ("ppc64", 21, true, true),
    ("ppc64le", 21, true, false),
    ("riscv64", 243, true, false),
    ("s390x", 22, true, true),
];

/// A handler of the kernel for programs of another processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// The processor, as `GOARCH` has it.
    pub architecture: &'static str,
    /// The program that runs them; empty where the kernel has a handler and does not tell which.
    pub interpreter: PathBuf,
    /// Whether the kernel opened it when it was registered (flag `F`). Otherwise it is looked up by its path in whatever
    /// root directory a program runs.
    pub is_open: bool,
}

impl Emulator {
    /// Whether the emulator is no static program, so that it does not run where its libraries are not.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn needs_libraries(&self) -> std::io::Result<bool> {
        /// The kind of a program header that names the dynamic linker.
        const LINKER: u32 = 3;
        let file = File::open(&self.interpreter)?;
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0)?;
        if !header.starts_with(b"\x7fELF") {
            return Ok(true);
        }
        // Of this machine's own kind: 64-bit, little-endian.
        let number = |at: usize, size: usize| {
            header[at..at + size].iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
        };
        let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        for index in 0..count {
            let mut kind = [0; 4];
            file.read_exact_at(&mut kind, start.saturating_add(index * size))?;
            if u32::from_le_bytes(kind) == LINKER {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The emulator for an architecture, a name of Go's `GOARCH`; of several, one that works with another root directory.
///
/// Where the kernel's list can't be seen (in many containers), a program for that processor is tried.
#[must_use]
pub fn emulator(architecture: &str) -> Option<Emulator> {
    let processor = PROCESSORS.iter().find(|processor| processor.0 == architecture)?;
    let Some(handlers) = handlers() else {
        let found = starts(processor).unwrap_or(false);
        return found.then(|| Emulator { architecture: processor.0, interpreter: PathBuf::new(), is_open: true });
    };
    let mut found: Vec<Emulator> = handlers.iter().filter_map(|text| handler(text, processor)).collect();
    found.sort_by_key(|emulator| !emulator.is_open);
    found.into_iter().next()
}

/// All emulators that the kernel lists, by architecture; `None` where the list can't be seen.
#[must_use]
pub fn emulators() -> Option<Vec<Emulator>> {
    let handlers = handlers()?;
    let of = |processor| handlers.iter().filter_map(move |text| handler(text, processor));
    Some(PROCESSORS.iter().flat_map(of).collect())
}

/// The descriptions of all handlers. None count where handlers are switched off.
fn handlers() -> Option<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(HANDLERS, flags, Mode::empty()).ok()?;
    let read = |name: &std::ffi::CStr| {
        let file = rustix::fs::openat(&folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(DESCRIPTION_LIMIT).read_to_string(&mut text).ok()?;
        Some(text)
    };
    if read(c"status")?.trim() != "enabled" {
        return Some(Vec::new());
    }
    let entries = rustix::fs::Dir::read_from(&folder).ok()?;
    let names = entries.flatten().map(|entry| entry.file_name().to_owned());
    Some(
        names
            .filter(|name| !matches!(name.to_bytes(), b"." | b".." | b"register" | b"status"))
            .filter_map(|name| read(&name))
            .collect(),
    )
}

/// Reads a handler's description, where it is on and for ELF files of that processor.
fn handler(description: &str, processor: &(&'static str, u16, bool, bool)) -> Option<Emulator> {
    let value = |key: &str| description.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let magic: Vec<u8> = value("magic ")
        .unwrap_or_default()
        .as_bytes()
        .chunks(2)
        .map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let header = header(processor);
    let fits = description.lines().next() == Some("enabled")
        && magic.starts_with(b"\x7fELF")
        && magic.get(CLASS) == header.get(CLASS)
        && magic.get(MACHINE) == header.get(MACHINE);
    fits.then(|| Emulator {
        architecture: processor.0,
        interpreter: value("interpreter ").unwrap_or_default().into(),
        is_open: value("flags:").is_some_and(|flags| flags.contains('F')),
    })
}

/// The beginning of a program for a processor.
fn header(&(_, number, is_64_bit, is_big_endian): &(&str, u16, bool, bool)) -> [u8; 64] {
    let mut header = [0; 64];
    header[..4].copy_from_slice(b"\x7fELF");
    header[CLASS] = if is_64_bit { 2 } else { 1 };
    header[CLASS + 1] = if is_big_endian { 2 } else { 1 };
    header[CLASS + 2] = 1;
    let number16 = |number: u16| if is_big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    // An executable.
    header[16..18].copy_from_slice(&number16(2));
    header[MACHINE].copy_from_slice(&number16(number));
    header
}

/// Whether the kernel starts something for a program of that processor. The program is empty, so that nothing but an
/// emulator can make anything of it, and that ends at once.
fn starts(processor: &(&'static str, u16, bool, bool)) -> std::io::Result<bool> {
    let program: OwnedFd = rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC)?;
    File::from(program.try_clone()?).write_all(&header(processor))?;
    // A file that is open for writing can't be executed.
    let path = descriptor_path(program.as_fd());
    let readable = File::open(Path::new(&path))?;
    drop(program);
    let mut command = Command::new(descriptor_path(readable.as_fd()));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(mut child) => child.wait().map(|_| true),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn processor(name: &str) -> &'static (&'static str, u16, bool, bool) {
        PROCESSORS.iter().find(|processor| processor.0 == name).expect("a known name")
    }

    #[test]
    fn handlers_are_read() {
        let arm64 = processor("arm64");
        let found = handler(ARM, arm64).expect("a handler");
        assert_eq!(found.interpreter, Path::new("/usr/libexec/qemu-binfmt/aarch64-binfmt-P"));
        assert!(found.is_open);
        assert!(!handler(&ARM.replace("POCF", "POC"), arm64).expect("a handler").is_open);
        for (text, name) in [
            (ARM.to_owned(), "riscv64"),
            (ARM.replace("enabled", "disabled"), "arm64"),
            (ARM.replace("464c4602", "464c4601"), "arm"),
            ("enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic cb0d0d0a\n".to_owned(), "arm64"),
            (String::new(), "arm64"),
        ] {
            assert_eq!(handler(&text, processor(name)), None, "{name}: {text}");
        }
        assert_eq!(header(processor("s390x"))[MACHINE], [0, 22]);
    }

    #[test]
    fn an_unknown_processor_has_no_emulator() {
        assert_eq!(emulator("abacus"), None);
    }

    #[test]
    fn programs_are_tried() {
        // No kernel that this runs on has a handler for it: none is registered for machine 0xfffe.
        assert!(!starts(&("none", 0xfffe, true, false)).expect("an attempt"));
    }

    #[test]
    fn static_programs_are_told_from_others() {
        let emulator = |path: &str| Emulator { architecture: "arm64", interpreter: path.into(), is_open: false };
        let own = std::env::current_exe().expect("this test");
        assert!(emulator(&own.to_string_lossy()).needs_libraries().expect("its header"));
        if Path::new("/bin/busybox").exists() {
            assert!(!emulator("/bin/busybox").needs_libraries().expect("its header"));
        } else {
            println!("skipped: a static program, because there is no /bin/busybox");
        }
        assert!(emulator("/not/there").needs_libraries().is_err());
    }
}
