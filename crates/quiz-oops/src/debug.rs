//! Looks frames up in the debug information (DWARF) of a kernel or a module. Not for finding the
//! file.
//!
//! The frames come from a guest, and a module may lie where a guest can write. So all input is
//! untrusted, and sums wrap.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::Path;

use addr2line::Context;
use gimli::{EndianSlice, RunTimeEndian, SectionId};
use object::{
    File, Object, ObjectKind, ObjectSection, ObjectSymbol, RelocationEncoding, RelocationKind, RelocationTarget,
    SectionIndex, SectionKind, SymbolKind,
};

use crate::place::{Place, Places};
use crate::report::Frame;

/// Why frames could not be looked up in a file.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not an ELF file, or is damaged.
    #[error("{path} cannot be read as an ELF file: {why}")]
    Elf {
        /// The file.
        path: String,
        /// The problem.
        why: String,
    },
    /// It has no debug information.
    #[error("{0} has no debug information")]
    None(String),
}

/// The largest gap between two functions, beyond the first one's size, in bytes.
const PADDING: u64 = 64;
/// The address of the first section of a module. The sections follow one another: in the file each
/// begins at 0.
const FIRST: u64 = 0x1000;

/// The results for one file.
#[derive(Debug, Default)]
pub struct Found {
    /// The places of each frame; empty if the file's function of that name is a different one.
    pub places: Vec<Places>,
    /// The source file of the landmark function.
    pub landmark: Option<String>,
}

/// Opens a regular file only. A directory that a guest can write to may hold a FIFO, and opening
/// that would wait for its other end.
pub(crate) fn open(path: &Path) -> std::io::Result<std::fs::File> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    let file = fs_err::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file.into_parts().0),
        false => Err(std::io::Error::other(format!("{} is no file", path.display()))),
    }
}

/// Whether the file at `path` has debug information.
pub fn is_in(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    let cache = object::ReadCache::new(file);
    File::parse(&cache).is_ok_and(|file| file.section_by_name(".debug_info").is_some())
}

/// Size limit for a file, in bytes: no kernel is larger. A sparse file can be larger without taking
/// space on the disk.
const LARGEST: u64 = 4 << 30;

/// Looks up `frames` in the file at `path`. `landmark` is a function whose source file is returned
/// as well.
///
/// A frame matches only if the function has the size that the frame names: debug information of
/// another build would lead to wrong lines.
///
/// # Errors
/// Fails if the file cannot be used at all.
pub fn look_up(path: &Path, frames: &[&Frame], landmark: Option<&str>) -> Result<Found, DebugError> {
    let damaged = |e: String| DebugError::Elf { path: path.display().to_string(), why: e };
    let mut data = Vec::new();
    if open(path)?.take(LARGEST + 1).read_to_end(&mut data)? as u64 > LARGEST {
        return Err(damaged(format!("it is larger than {} GiB", LARGEST >> 30)));
    }
    let file = File::parse(&*data).map_err(|e| damaged(e.to_string()))?;
    if file.section_by_name(".debug_info").is_none() {
        return Err(DebugError::None(path.display().to_string()));
    }
    let bases = bases(&file);
    let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let mut sections: HashMap<&'static str, Cow<'_, [u8]>> = HashMap::new();
    let names = gimli::DwarfSections::load(|id: SectionId| {
        sections.insert(id.name(), section(&file, id.name(), &bases)?);
        Ok::<_, object::Error>(id.name())
    });
    let names = names.map_err(|e| damaged(e.to_string()))?;
    let dwarf = names.borrow(|name| EndianSlice::new(sections.get(name).map_or(&[][..], |data| data), endian));
    let context = Context::from_dwarf(dwarf).map_err(|e| damaged(e.to_string()))?;
    let functions = functions(&file, &bases);
    let places = frames.iter().map(|frame| {
        let at = functions.get(frame.function.as_str()).into_iter().flatten().find(|f| f.fits(frame));
        at.map_or_else(Vec::new, |function| {
            // A return address is after the call instruction.
            let offset = if frame.exact { frame.offset } else { frame.offset.saturating_sub(1) };
            let mut places = places_at(&context, function.address.wrapping_add(offset));
            // Assembler code has lines but no functions.
            for place in places.iter_mut().filter(|place| place.function.is_empty()) {
                place.function.clone_from(&frame.function);
            }
            places
        })
    });
    let places = places.collect();
    let landmark = landmark
        .and_then(|name| functions.get(name)?.first())
        .and_then(|function| places_at(&context, function.address).pop())
        .map(|place| place.file);
    Ok(Found { places, landmark })
}

/// The inlined functions at an address and the function that contains them, innermost first.
fn places_at(context: &Context<EndianSlice<'_, RunTimeEndian>>, address: u64) -> Places {
    let mut found = Vec::new();
    let Ok(mut frames) = context.find_frames(address).skip_all_loads() else { return found };
    while let Ok(Some(frame)) = frames.next() {
        let function = frame.function.as_ref().and_then(|f| f.raw_name().ok()).map(Cow::into_owned).unwrap_or_default();
        let Some(location) = frame.location else { continue };
        if let (Some(file), Some(line)) = (location.file, location.line) {
            found.push(Place { function, file: file.to_owned(), line });
        }
    }
    found
}

/// The address of each section: for a linked kernel its own, for a module one that no other section
/// has.
fn bases(file: &File<'_>) -> HashMap<SectionIndex, u64> {
    if file.kind() != ObjectKind::Relocatable {
        return HashMap::new();
    }
    let mut next = FIRST;
    let mut bases = HashMap::new();
    for section in file.sections() {
        if matches!(section.kind(), SectionKind::Text | SectionKind::Data | SectionKind::ReadOnlyData) {
            bases.insert(section.index(), next);
            next = next.saturating_add(section.size()).saturating_add(2 * FIRST) & !(FIRST - 1);
        }
    }
    bases
}

/// The contents of a debug information section. In a module the addresses in it still have to be
/// filled in.
fn section<'a>(file: &File<'a>, name: &str, bases: &HashMap<SectionIndex, u64>) -> object::Result<Cow<'a, [u8]>> {
    let Some(section) = file.section_by_name(name) else { return Ok(Cow::Borrowed(&[])) };
    let mut data = section.uncompressed_data()?;
    if file.kind() != ObjectKind::Relocatable {
        return Ok(data);
    }
    for (offset, relocation) in section.relocations() {
        let simple = relocation.kind() == RelocationKind::Absolute
            && matches!(relocation.encoding(), RelocationEncoding::Generic | RelocationEncoding::X86Signed);
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        if !simple {
            continue;
        }
        let symbol = file.symbol_by_index(index)?;
        let base = symbol.section_index().and_then(|index| bases.get(&index)).copied().unwrap_or_default();
        let width = usize::from(relocation.size() / 8);
        let data = data.to_mut();
        let range = usize::try_from(offset).ok().and_then(|at| Some(at..at.checked_add(width)?));
        let Some(at) = range.filter(|_| width <= 8).and_then(|range| data.get_mut(range)) else { continue };
        let there = if relocation.has_implicit_addend() { number(at, file.is_little_endian()) } else { 0 };
        let value = base.wrapping_add(symbol.address()).wrapping_add_signed(relocation.addend()).wrapping_add(there);
        let bytes = value.to_le_bytes();
        at.copy_from_slice(&bytes[..width]);
        if !file.is_little_endian() {
            at.reverse();
        }
    }
    Ok(data)
}

fn number(bytes: &[u8], little: bool) -> u64 {
    let step = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    if little { bytes.iter().rev().fold(0, step) } else { bytes.iter().fold(0, step) }
}

/// A function of a file.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    address: u64,
    size: u64,
    /// Distance to the next symbol of its section, which the kernel takes as its size; `None` for
    /// the last one.
    distance: Option<u64>,
}

impl Function {
    fn fits(&self, frame: &Frame) -> bool {
        let beyond = frame.size.checked_sub(self.size);
        frame.offset <= frame.size
            && match self.distance {
                Some(distance) => distance == frame.size || beyond.is_some_and(|beyond| beyond < PADDING),
                // The kernel has placed other sections after this one.
                None => beyond.is_some(),
            }
    }
}

/// The functions of a file by name; several may have the same name.
fn functions<'a>(file: &'a File<'_>, bases: &HashMap<SectionIndex, u64>) -> HashMap<&'a str, Vec<Function>> {
    let mut starts: HashMap<SectionIndex, BTreeSet<u64>> = HashMap::new();
    let mut all = Vec::new();
    for symbol in file.symbols() {
        let (Ok(name), Some(index)) = (symbol.name(), symbol.section_index()) else { continue };
        // Assembler labels and instruction set marks are not symbols of the kernel.
        if name.is_empty() || name.starts_with(".L") || name.starts_with('$') {
            continue;
        }
        if !matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label) {
            continue;
        }
        let address = bases.get(&index).copied().unwrap_or_default().wrapping_add(symbol.address());
        starts.entry(index).or_default().insert(address);
        all.push((name, index, address, symbol.size()));
    }
    let mut functions: HashMap<&str, Vec<Function>> = HashMap::new();
    for (name, index, address, size) in all {
        let next = starts[&index].range(address.saturating_add(1)..).next();
        let distance = next.map(|next| next.wrapping_sub(address));
        functions.entry(name).or_default().push(Function { address, size, distance });
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: u64, size: u64) -> Frame {
        Frame { function: "f".to_owned(), offset, size, module: None, exact: true, reliable: true }
    }

    #[test]
    fn a_function_of_another_size_is_another_function() {
        let inner = Function { address: 0, size: 0x34, distance: Some(0x40) };
        for (offset, size, fits) in [
            (0x10, 0x40, true),
            (0x10, 0x34, true),
            (0x10, 0x50, true),
            (0x10, 0x30, false),
            (0x10, 0x90, false),
            (0x41, 0x40, false),
        ] {
            assert_eq!(inner.fits(&frame(offset, size)), fits, "{offset:#x}/{size:#x}");
        }
        let last = Function { distance: None, ..inner };
        assert!(last.fits(&frame(0x10, 0x1000)) && !last.fits(&frame(0x10, 0x30)));
    }

    #[test]
    fn what_is_no_elf_file_or_not_there_is_said_to_be_so() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let error = look_up(&dir.join("Cargo.toml"), &[], None).unwrap_err();
        assert!(matches!(error, DebugError::Elf { .. }), "{error}");
        assert!(matches!(look_up(&dir.join("nosuch"), &[], None), Err(DebugError::Io(_))));
    }

    #[test]
    fn numbers_are_read_in_both_orders() {
        assert_eq!((number(&[1, 2], true), number(&[1, 2], false)), (0x201, 0x102));
    }
}
