//! The system call filter: Docker's default profile for a container with the default capabilities.
//!
//! The profile (moby/profiles, 2026-06) allows calls by name and answers EPERM to the others. Two answers differ by
//! design, as in runc: `clone3` and every call newer than the profile get ENOSYS, so that programs fall back to older
//! calls. The table is laid out as ranges of numbers for each architecture, one block after another:
//!
//! ```text
//! load arch --> native block | i386 block (on x86-64) | kill
//! block:  load number; special calls; above the newest known -> ENOSYS; in a range -> allow; else -> EPERM
//! ```
//!
//! This is written as BPF here because seccompiler has one default answer and kills foreign architectures.
//! Where the network is not connected yet, the calls that make sockets of other families than AF_UNIX are held back
//! instead of allowed (see [`gate`](super::gate)).
//!
//! Arguments are compared as 32 bits, which is what the kernel itself looks at in the four calls concerned.

use libc::sock_filter;

/// What the filter lets through beyond the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilterOptions {
    /// Whether `socketcall(2)` is allowed: it hides the address family, so only programs that need it get it.
    pub(super) socketcall: bool,
    /// Whether sockets that are not local ones are held back until the listener lets them through.
    pub(super) gated: bool,
}

/// The calls of one architecture.
struct Calls {
    /// `AUDIT_ARCH_*`.
    architecture: u32,
    /// Inclusive ranges of allowed numbers, ascending.
    allowed: &'static [(u32, u32)],
    socket: u32,
    personality: u32,
    clone: u32,
    /// Carries a pointer to pointers; absent where it does not exist.
    socketcall: Option<u32>,
}

/// The same number everywhere.
const CLONE3: u32 = 435;
/// The newest number the profile knows (`open_tree_attr`), the same everywhere.
const NEWEST: u32 = 467;

#[cfg(target_arch = "x86_64")]
const NATIVE: Calls = Calls {
    architecture: 0xc000_003e,
    allowed: &[
        (0, 40),
        (42, 55),
        (57, 102),
        (104, 133),
        (137, 138),
        (140, 152),
        (154, 154),
        (157, 162),
        (186, 211),
        (213, 226),
        (228, 235),
        (240, 245),
        (247, 247),
        (251, 255),
        (257, 271),
        (273, 278),
        (280, 297),
        (299, 299),
        (301, 303),
        (305, 307),
        (309, 311),
        (314, 319),
        (322, 322),
        (324, 335),
        (424, 424),
        (434, 434),
        (436, 437),
        (439, 439),
        (441, 441),
        (444, 449),
        (451, 458),
        (462, 466),
    ],
    socket: 41,
    personality: 135,
    clone: 56,
    socketcall: None,
};

#[cfg(target_arch = "x86_64")]
const FOREIGN: Option<Calls> = Some(Calls {
    architecture: 0x4000_0003,
    allowed: &[
        (0, 16),
        (19, 20),
        (23, 24),
        (26, 27),
        (29, 30),
        (33, 33),
        (36, 43),
        (45, 47),
        (49, 50),
        (54, 55),
        (57, 57),
        (60, 61),
        (63, 66),
        (70, 71),
        (75, 78),
        (80, 83),
        (85, 85),
        (90, 97),
        (99, 100),
        (104, 108),
        (114, 114),
        (116, 119),
        (122, 126),
        (132, 133),
        (138, 148),
        (150, 165),
        (168, 168),
        (170, 187),
        (190, 216),
        (218, 221),
        (224, 250),
        (252, 252),
        (254, 263),
        (265, 272),
        (277, 282),
        (284, 284),
        (289, 293),
        (295, 309),
        (311, 316),
        (318, 335),
        (337, 337),
        (339, 341),
        (343, 345),
        (347, 348),
        (351, 356),
        (358, 358),
        (360, 373),
        (375, 386),
        (393, 403),
        (405, 414),
        (416, 424),
        (434, 434),
        (436, 437),
        (439, 439),
        (441, 441),
        (444, 449),
        (451, 458),
        (462, 466),
    ],
    socket: 359,
    personality: 136,
    clone: 120,
    socketcall: Some(102),
});

#[cfg(target_arch = "aarch64")]
const NATIVE: Calls = Calls {
    architecture: 0xc000_00b7,
    allowed: &[
        (0, 17),
        (19, 38),
        (43, 57),
        (59, 59),
        (61, 88),
        (90, 91),
        (93, 96),
        (98, 103),
        (107, 111),
        (113, 115),
        (117, 141),
        (143, 160),
        (163, 169),
        (171, 197),
        (199, 216),
        (221, 223),
        (226, 234),
        (240, 240),
        (242, 243),
        (260, 261),
        (263, 264),
        (266, 267),
        (269, 271),
        (274, 279),
        (281, 281),
        (283, 293),
        (424, 424),
        (434, 434),
        (436, 437),
        (439, 439),
        (441, 441),
        (444, 449),
        (451, 458),
        (462, 466),
    ],
    socket: 198,
    personality: 92,
    clone: 220,
    socketcall: None,
};

#[cfg(target_arch = "aarch64")]
const FOREIGN: Option<Calls> = None;

/// New mount, cgroup, UTS, IPC, user, PID and network namespaces.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
/// Sockets that lead nowhere out of the machine.
const AF_UNIX: u32 = 1;
/// AF_ALG and AF_VSOCK reach kernel code that a build has no business with.
const DENIED_FAMILIES: [u32; 2] = [38, 40];
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const HOLD: u32 = libc::SECCOMP_RET_USER_NOTIF;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Offsets in `struct seccomp_data`; the low half of the first argument on little-endian machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Builds the filter of this machine.
pub(super) fn default_filter(options: FilterOptions) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for calls in [Some(&NATIVE), FOREIGN.as_ref()].into_iter().flatten() {
        let block = block(calls, options);
        // A conditional jump reaches 255 instructions at most, an unconditional one any distance.
        program.push(jump(libc::BPF_JEQ, calls.architecture, 1, 0));
        program.push(instruction(libc::BPF_JMP | libc::BPF_JA, block.len() as u32, 0, 0));
        program.extend(block);
    }
    program.push(answer(KILL));
    program
}

fn block(calls: &Calls, options: FilterOptions) -> Vec<sock_filter> {
    let mut program = vec![load(NUMBER)];
    let mut special = |number, body: Vec<sock_filter>| {
        program.push(jump(libc::BPF_JEQ, number, 0, body.len() as u8));
        program.extend(body);
    };
    special(CLONE3, vec![answer(NO_SUCH_CALL)]);
    special(
        calls.clone,
        vec![load(FIRST_ARGUMENT), jump(libc::BPF_JSET, NAMESPACE_FLAGS, 0, 1), answer(NOT_PERMITTED), answer(ALLOW)],
    );
    let sockets = if options.gated { HOLD } else { ALLOW };
    let families = DENIED_FAMILIES.map(|family| (family, NOT_PERMITTED)).into_iter().chain([(AF_UNIX, ALLOW)]);
    special(calls.socket, by_value(families, sockets));
    special(calls.personality, by_value(PERSONALITIES.into_iter().map(|value| (value, ALLOW)), NOT_PERMITTED));
    if let Some(number) = calls.socketcall {
        special(number, vec![answer(if options.socketcall { sockets } else { NOT_PERMITTED })]);
    }
    // This also answers the x32 calls, whose numbers have bit 30 set.
    program.extend([jump(libc::BPF_JGT, NEWEST, 0, 1), answer(NO_SUCH_CALL)]);
    for &(first, last) in calls.allowed {
        program.extend([
            jump(libc::BPF_JGE, first, 1, 0),
            answer(NOT_PERMITTED),
            jump(libc::BPF_JGT, last, 1, 0),
            answer(ALLOW),
        ]);
    }
    program.push(answer(NOT_PERMITTED));
    program
}

/// Answers by the first argument.
fn by_value(answers: impl IntoIterator<Item = (u32, u32)>, otherwise: u32) -> Vec<sock_filter> {
    let mut program = vec![load(FIRST_ARGUMENT)];
    let checks = |(value, found)| [jump(libc::BPF_JEQ, value, 0, 1), answer(found)];
    program.extend(answers.into_iter().flat_map(checks));
    program.push(answer(otherwise));
    program
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn jump(comparison: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, value, if_true, if_false)
}

fn answer(value: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
