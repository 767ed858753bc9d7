//! What an ELF file says of itself, as far as it decides whether a preload reaches its calls.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, ObjectSymbol, ReadCache, ReadRef};

/// Names of symbols that are looked at, at most; more has no program.
const SYMBOLS_MAX: usize = 1_000_000;
/// The path of an interpreter, at most (PATH_MAX).
const INTERPRETER_BYTES_MAX: usize = 4096;
/// Notes are short; longer ones are not read.
const NOTES_BYTES_MAX: u64 = 64 * 1024;

/// The sections that the Go linker leaves in what it makes.
const GO_SECTIONS: [&str; 2] = [".go.buildinfo", ".note.go.buildid"];

/// A program or a library.
#[derive(Debug)]
pub(super) struct Elf {
    pub(super) architecture: Architecture,
    pub(super) is_64_bit: bool,
    /// The dynamic loader; none in a static program, and in libraries.
    pub(super) interpreter: Option<String>,
    pub(super) is_go: bool,
    /// The names that are looked for in other files when it is loaded.
    pub(super) imports: BTreeSet<String>,
    /// The names that it offers to others.
    pub(super) exports: BTreeSet<String>,
}

/// Reads what the file says; the error says what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Elf, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let cache = ReadCache::new(file);
    let broken = |error: object::Error| format!("a broken ELF file: {error}");
    match object::File::parse(&cache).map_err(broken)? {
        object::File::Elf64(file) => describe(&file, true).map_err(broken),
        object::File::Elf32(file) => describe(&file, false).map_err(broken),
        _ => Err("not an ELF file".to_owned()),
    }
}

fn describe<'data, H, R>(file: &ElfFile<'data, H, R>, is_64_bit: bool) -> object::Result<Elf>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let (endian, data) = (file.endian(), file.data());
    let mut interpreter = None;
    let mut is_go = GO_SECTIONS.iter().any(|name| file.section_by_name(name).is_some());
    for header in file.elf_program_headers() {
        if interpreter.is_none()
            && let Some(path) = header.interpreter(endian, data)?
        {
            let path = &path[..path.len().min(INTERPRETER_BYTES_MAX)];
            interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
        // A stripped program keeps its notes when its sections are gone.
        let size: u64 = header.p_filesz(endian).into();
        if size <= NOTES_BYTES_MAX
            && let Some(mut notes) = header.notes(endian, data)?
        {
            while let Ok(Some(note)) = notes.next() {
                is_go |= note.name() == b"Go";
            }
        }
    }
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    for symbol in file.dynamic_symbols().take(SYMBOLS_MAX) {
        let Ok(name) = symbol.name() else { continue };
        if !name.is_empty() {
            let names = if symbol.is_undefined() { &mut imports } else { &mut exports };
            names.insert(name.to_owned());
        }
    }
    let architecture = file.architecture();
    Ok(Elf { architecture, is_64_bit, interpreter, is_go, imports, exports })
}
