//! The capabilities of a forked child. Nothing here allocates or locks.

use std::ffi::{c_int, c_long, c_ulong};

use rustix::io::Errno;

use super::call::{check, prctl};

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the effective and permitted capabilities, of those that are permitted now, and empties the inheritable ones.
pub(super) fn set_capabilities(wanted: u64) -> Result<(), Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 reads and writes exactly two data structures.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let allowed = (u64::from(data[1].permitted) << 32 | u64::from(data[0].permitted)) & wanted;
    for (i, part) in data.iter_mut().enumerate() {
        let bits = (allowed >> (32 * i)) as u32;
        *part = CapabilityData { effective: bits, permitted: bits, inheritable: 0 };
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Takes every capability but the wanted ones out of the bounding set and empties the ambient set.
pub(super) fn limit_capabilities(wanted: u64) -> Result<(), Errno> {
    prctl_ambient_clear()?;
    for capability in 0..64 {
        if wanted & (1 << capability) == 0 {
            match prctl(libc::PR_CAPBSET_DROP, capability) {
                Ok(()) => {}
                // The kernel knows no such capability, nor any higher one.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn prctl_ambient_clear() -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(c_long::from(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
        )
    }))?;
    Ok(())
}
