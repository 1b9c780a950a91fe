use super::*;

/// Runs a filter as the kernel would.
fn run(program: &[sock_filter], architecture: u32, number: u32, argument: u64) -> u32 {
    let words = [number, architecture, 0, 0, argument as u32, (argument >> 32) as u32];
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let step = program[at];
        let code = u32::from(step.code);
        at += 1;
        let branch = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match code & 0x07 {
            libc::BPF_LD => accumulator = words[(step.k / 4) as usize],
            libc::BPF_RET => return step.k,
            libc::BPF_JMP => {
                at += match code & 0xf0 {
                    libc::BPF_JA => step.k as usize,
                    libc::BPF_JEQ => branch(accumulator == step.k),
                    libc::BPF_JGT => branch(accumulator > step.k),
                    libc::BPF_JGE => branch(accumulator >= step.k),
                    libc::BPF_JSET => branch(accumulator & step.k != 0),
                    other => panic!("unknown jump {other:#x}"),
                };
            }
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn native(number: i64, argument: u64) -> u32 {
    let program = default_filter(FilterOptions { socketcall: false, gated: false });
    run(&program, NATIVE.architecture, number as u32, argument)
}

#[test]
fn fits_the_kernel_and_its_tables_are_sorted() {
    assert!(default_filter(FilterOptions { socketcall: true, gated: true }).len() < 4096);
    for calls in [Some(&NATIVE), FOREIGN.as_ref()].into_iter().flatten() {
        assert!(calls.allowed.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert!(calls.allowed.iter().all(|range| range.0 <= range.1));
    }
}

#[test]
fn ordinary_calls_pass_and_dangerous_ones_do_not() {
    for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_openat, libc::SYS_chroot, libc::SYS_ptrace] {
        assert_eq!(native(number, 0), ALLOW, "{number}");
    }
    let denied = [
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_open_by_handle_at,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_pidfd_getfd,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_syslog,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_mbind,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
        libc::SYS_process_madvise,
        libc::SYS_kcmp,
    ];
    for number in denied {
        assert_eq!(native(number, 0), NOT_PERMITTED, "{number}");
    }
    assert_eq!(native(libc::SYS_clone3, 0), NO_SUCH_CALL);
    assert_eq!(native(468, 0), NO_SUCH_CALL, "newer than the profile");
    assert_eq!(native(0x4000_0000, 0), NO_SUCH_CALL, "x32");
}

#[test]
fn arguments_are_compared_as_the_kernel_reads_them() {
    let garbage = 0xdead_beef_0000_0000;
    for high in [0, garbage] {
        assert_eq!(native(libc::SYS_socket, high | 2), ALLOW);
        assert_eq!(native(libc::SYS_socket, high | 38), NOT_PERMITTED);
        assert_eq!(native(libc::SYS_socket, high | 40), NOT_PERMITTED);
        assert_eq!(native(libc::SYS_personality, high), ALLOW);
        assert_eq!(native(libc::SYS_personality, high | 0x40_0000), NOT_PERMITTED);
        assert_eq!(native(libc::SYS_clone, high | libc::SIGCHLD as u64), ALLOW);
        assert_eq!(native(libc::SYS_clone, high | libc::CLONE_NEWUSER as u64), NOT_PERMITTED);
    }
}

#[test]
fn sockets_that_lead_out_wait_at_the_gate() {
    let options = FilterOptions { socketcall: true, gated: true };
    let (program, open) = (default_filter(options), default_filter(FilterOptions { gated: false, ..options }));
    for calls in [Some(&NATIVE), FOREIGN.as_ref()].into_iter().flatten() {
        let socket = |program, family| run(program, calls.architecture, calls.socket, family);
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, 0x7fff] {
            assert_eq!(socket(&program, family as u64), HOLD, "{family}");
            assert_eq!(socket(&open, family as u64), ALLOW, "{family}");
        }
        assert_eq!(socket(&program, libc::AF_UNIX as u64), ALLOW);
        assert_eq!(socket(&program, libc::AF_VSOCK as u64), NOT_PERMITTED);
        if let Some(number) = calls.socketcall {
            assert_eq!(run(&program, calls.architecture, number, 1), HOLD);
        }
    }
    assert_eq!(run(&program, NATIVE.architecture, libc::SYS_openat as u32, 0), ALLOW);
}

#[test]
fn foreign_architectures_are_filtered_too() {
    for socketcall in [false, true] {
        let program = default_filter(FilterOptions { socketcall, gated: false });
        assert_eq!(run(&program, 0x1234, 0, 0), KILL);
        if let Some(calls) = FOREIGN {
            assert_eq!(run(&program, calls.architecture, 3, 0), ALLOW, "read");
            assert_eq!(run(&program, calls.architecture, 310, 0), NOT_PERMITTED, "unshare");
            assert_eq!(run(&program, calls.architecture, calls.socket, 38), NOT_PERMITTED);
            let number = calls.socketcall.expect("i386 has it");
            assert_eq!(run(&program, calls.architecture, number, 1) == ALLOW, socketcall);
        }
    }
}
