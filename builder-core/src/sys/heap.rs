//! The C library's allocator.

/// Blocks of as many bytes are large ones. The buffers that layers are encoded with are larger.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 512 << 10;

/// Lets large blocks be given back to the system as soon as they are freed, in the whole process. Else glibc takes the first
/// one that is freed for a sign that such blocks come and go, and keeps them from then on, for each thread its own. Other C
/// libraries need no telling.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call changes a number in the allocator, which it locks for that.
    unsafe {
        // What is refused only costs memory.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
