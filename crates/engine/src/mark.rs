//! The mark that every program or library with an engine in it bears: an ELF note.
//!
//! Two engines in one process would both take the same calls for theirs: a program that links
//! eversock and is preloaded too. A symbol would be no mark, as a program that links the static
//! library exports none.

use std::ffi::{c_int, c_void};

/// As elf(5) has it: lengths of name and description, type, name, description.
#[repr(C, align(4))]
struct Note {
    lengths: [u32; 2],
    kind: u32,
    name: [u8; 12],
    description: u32,
}

const NAME: &[u8; 12] = b"eversock\0\0\0\0";
const KIND: u32 = 1;

#[used]
#[unsafe(link_section = ".note.eversock")]
static MARK: Note = Note { lengths: [9, 4], kind: KIND, name: *NAME, description: 1 };

/// Where the mark of this engine is; whoever starts one asks, so that the linker keeps it.
pub(crate) fn address() -> usize {
    std::hint::black_box(&raw const MARK) as usize
}

/// True when the program, or a library that it has loaded, has an engine of its own besides the
/// one in which this function is.
pub fn is_in_another_object() -> bool {
    let mut found = false;
    // SAFETY: the function is called with `found` for each object, before this call returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

unsafe extern "C" fn look(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut c_void,
) -> c_int {
    // SAFETY: the loader's word.
    let info = unsafe { &*info };
    for at in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: as above: there are so many.
        let header = unsafe { &*info.dlpi_phdr.add(at) };
        if header.p_type != libc::PT_NOTE {
            continue;
        }
        let (Ok(from), Ok(len)) = (
            usize::try_from(info.dlpi_addr.wrapping_add(header.p_vaddr)),
            usize::try_from(header.p_memsz),
        ) else {
            continue;
        };
        // SAFETY: a segment of notes is loaded and readable.
        let notes = unsafe { std::slice::from_raw_parts(from as *const u8, len) };
        let own = (from..from.saturating_add(len)).contains(&address());
        if !own && has_mark(notes) {
            // SAFETY: what `is_in_another_object` passed.
            unsafe { found.cast::<bool>().write(true) };
            return 1;
        }
    }
    0
}

/// Looks through notes, whoever wrote them.
fn has_mark(mut notes: &[u8]) -> bool {
    let word = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|word| word.first_chunk())
            .map(|word| u32::from_ne_bytes(*word))
    };
    loop {
        let (Some(name), Some(description), Some(kind)) =
            (word(notes, 0), word(notes, 4), word(notes, 8))
        else {
            return false;
        };
        if name == 9 && kind == KIND && notes.get(12..24) == Some(NAME) {
            return true;
        }
        let round = |length: u32| (length as usize).next_multiple_of(4);
        let Some(rest) = notes.get(12 + round(name) + round(description)..) else { return false };
        notes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::{has_mark, is_in_another_object};

    #[test]
    fn the_own_mark_is_not_another_engines() {
        assert!(!is_in_another_object());
    }

    #[test]
    fn cut_and_overlong_notes_are_read_to_their_end_and_no_further() {
        let mut notes = Vec::new();
        for words in [[4u32, 20, 3], [9, 4, 1]] {
            words.iter().for_each(|word| notes.extend(word.to_ne_bytes()));
            let body: &[u8] = if words[0] == 4 { b"GNU\0" } else { b"eversock\0\0\0\0" };
            notes.extend(body);
            notes.extend(vec![0; words[1] as usize]);
        }
        assert!(has_mark(&notes));
        for len in 0..notes.len() - 4 {
            assert!(!has_mark(&notes[..len]), "{len}");
        }
        assert!(!has_mark(&[0xFF; 64]));
    }
}
