//! Repairs the output of QEMU's `dump-guest-memory`, so that debuggers accept it. Not for dumping.
//!
//! An ELF dump has a segment for each range of mapped memory. QEMU ends a range in the file where
//! its own block of RAM ends, such as at the firmware below 1 MiB. But the next block follows it in
//! the file. Without the repair, all but the first part of the kernel's linear mapping would read
//! as zero.
//!
//! A compressed dump (the format of `diskdump` and `makedumpfile`, here in its flattened form)
//! should have the guest's `uname` in its header. QEMU sets only the machine. libkdumpfile then
//! trusts none of it and knows no architecture.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};

use object::elf::{FileHeader64, PT_LOAD, ProgramHeader64};
use object::endian::{Endianness, U64};
use object::pod::{bytes_of, from_bytes, slice_from_bytes};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::spec::DumpFormat;

/// The maximum number of segments that are read.
const SEGMENTS: u64 = 1 << 20;
/// The offset of the first piece in a flattened dump: after the flattened header, and the piece's
/// own offset and length (`makedumpfile`, IMPLEMENTATION).
const FIRST_PIECE: usize = 4096 + 16;
/// The start of the header of a compressed dump.
const SIGNATURE: &[u8] = b"KDUMP   ";
/// The offset of the `uname` strings in the header, and the length of each of the six.
const UTSNAME: (usize, usize) = (12, 65);
/// How many bytes of a dump are searched for the kernel's `vmcoreinfo`.
const SEARCHED: u64 = 1 << 20;

/// Repairs a dump of this format.
///
/// # Errors
/// If the file cannot be read or written, or has another format.
pub fn mend(dump: &mut File, format: DumpFormat) -> io::Result<()> {
    match format {
        DumpFormat::Elf => mend_segments(dump),
        DumpFormat::Kdump => mend_header(dump),
    }
}

/// Completes the header of a compressed dump from the kernel's `vmcoreinfo`. Without `vmcoreinfo`
/// the header stays as it is.
fn mend_header(dump: &mut File) -> io::Result<()> {
    let mut start = Vec::new();
    dump.seek(SeekFrom::Start(0))?;
    dump.take(SEARCHED).read_to_end(&mut start)?;
    let Some(header) =
        [FIRST_PIECE, 0].into_iter().find(|at| start.get(*at..).is_some_and(|s| s.starts_with(SIGNATURE)))
    else {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no compressed dump that quiz understands"));
    };
    const RELEASE: &[u8] = b"OSRELEASE=";
    let release = start.windows(RELEASE.len()).position(|window| window == RELEASE).map(|at| {
        let rest = &start[at + RELEASE.len()..];
        &rest[..rest.iter().position(|b| *b == b'\n').unwrap_or(0)]
    });
    let Some(release) = release else { return Ok(()) };
    let (first, length) = UTSNAME;
    // The fifth string, the machine, is set already.
    for (i, text) in [&b"Linux"[..], b"quiz", release, b"#1"].into_iter().enumerate() {
        let mut field = vec![0; length];
        let text = &text[..text.len().min(length - 1)];
        field[..text.len()].copy_from_slice(text);
        dump.seek(SeekFrom::Start((header + first + i * length) as u64))?;
        dump.write_all(&field)?;
    }
    Ok(())
}

/// Extends each segment of an ELF file to its full length.
fn mend_segments(dump: &mut File) -> io::Result<()> {
    let invalid = || io::Error::new(ErrorKind::InvalidData, "it is no ELF file that quiz understands");
    let length = dump.metadata()?.len();
    let mut head = vec![0; size_of::<FileHeader64<Endianness>>()];
    dump.seek(SeekFrom::Start(0))?;
    dump.read_exact(&mut head)?;
    let (header, _) = from_bytes::<FileHeader64<Endianness>>(&head).map_err(|()| invalid())?;
    let endian = header.endian().map_err(|_| invalid())?;
    let start = header.e_phoff(endian);
    let mut count = u64::from(header.e_phnum(endian));
    if count == u64::from(u16::MAX) {
        // Then the count is in the first section's header (gABI, "Extended program header
        // numbering").
        let mut section = [0; size_of::<object::elf::SectionHeader64<Endianness>>()];
        dump.seek(SeekFrom::Start(header.e_shoff(endian)))?;
        dump.read_exact(&mut section)?;
        let (section, _) = from_bytes::<object::elf::SectionHeader64<Endianness>>(&section).map_err(|()| invalid())?;
        count = section.sh_info.get(endian).into();
    }
    if count > SEGMENTS {
        return Err(invalid());
    }
    let size = size_of::<ProgramHeader64<Endianness>>();
    let mut table = vec![0; usize::try_from(count).unwrap_or(0) * size];
    dump.seek(SeekFrom::Start(start))?;
    dump.read_exact(&mut table)?;
    let (segments, _) =
        slice_from_bytes::<ProgramHeader64<Endianness>>(&table, table.len() / size).map_err(|()| invalid())?;
    let mended = mended(segments, endian, length);
    for (i, segment) in mended {
        dump.seek(SeekFrom::Start(start + (i * size) as u64))?;
        dump.write_all(bytes_of(&segment))?;
    }
    Ok(())
}

/// The segments that can be longer in the file, with their index and their new length.
fn mended(
    segments: &[ProgramHeader64<Endianness>],
    endian: Endianness,
    length: u64,
) -> Vec<(usize, ProgramHeader64<Endianness>)> {
    let loads = || segments.iter().enumerate().filter(|(_, segment)| segment.p_type(endian) == PT_LOAD);
    // The distance from a byte's physical address to its offset in the file.
    let shift = |segment: &ProgramHeader64<Endianness>| segment.p_offset(endian).wrapping_sub(segment.p_paddr(endian));
    // Address and shift of each segment, in the order of addresses. The guest's page tables can
    // make a million of them.
    let mut known: Vec<(u64, u64)> = loads()
        .filter(|(_, segment)| segment.p_filesz(endian) > 0)
        .map(|(_, segment)| (segment.p_paddr(endian), shift(segment)))
        .collect();
    known.sort_unstable();
    // For each segment, the first later one that has another shift.
    let mut other: Vec<usize> = vec![known.len(); known.len()];
    for i in (1..known.len()).rev() {
        other[i - 1] = if known[i - 1].1 == known[i].1 { other[i] } else { i };
    }
    let short = loads().filter(|(_, segment)| segment.p_filesz(endian) < segment.p_memsz(endian));
    short
        .filter_map(|(i, segment)| {
            let begin = segment.p_paddr(endian);
            // Up to the address at which another segment has memory elsewhere in the file.
            let next = known.partition_point(|(address, _)| *address <= begin);
            let next = match known.get(next) {
                Some((_, there)) if *there == shift(segment) => other[next],
                _ => next,
            };
            let elsewhere = known.get(next).map(|(address, _)| address - begin);
            let left = length.saturating_sub(segment.p_offset(endian));
            let size = elsewhere.into_iter().chain([left, segment.p_memsz(endian)]).min()?;
            let mut whole = *segment;
            whole.p_filesz = U64::new(endian, size);
            (size > segment.p_filesz(endian)).then_some((i, whole))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use object::endian::U32;

    use super::*;

    fn segment(offset: u64, physical: u64, file: u64, memory: u64) -> ProgramHeader64<Endianness> {
        let e = Endianness::Little;
        let number = |n| U64::new(e, n);
        ProgramHeader64 {
            p_type: U32::new(e, PT_LOAD),
            p_flags: U32::new(e, object::elf::ProgramFlags(0)),
            p_offset: number(offset),
            p_vaddr: number(physical | 1 << 63),
            p_paddr: number(physical),
            p_filesz: number(file),
            p_memsz: number(memory),
            p_align: number(0),
        }
    }

    fn sizes(segments: &[ProgramHeader64<Endianness>], length: u64) -> Vec<(usize, u64)> {
        let e = Endianness::Little;
        mended(segments, e, length).iter().map(|(i, segment)| (*i, segment.p_filesz(e))).collect()
    }

    #[test]
    fn a_segment_goes_on_as_far_as_its_memory_does_in_the_file() {
        let cut = segment(0x400, 0, 0xf0000, 0x4000_0000);
        let whole = segment(0x17_4400, 0x17_4000, 0x4000, 0x4000);
        assert_eq!(sizes(&[cut, whole], 0x4000_0400), [(0, 0x4000_0000)]);
        // Not beyond the file, nor where memory is somewhere else in it.
        assert_eq!(sizes(&[cut, whole], 0x20_0400), [(0, 0x20_0000)]);
        let elsewhere = segment(0x10_0000, 0x3000_0000, 0x1000, 0x1000);
        assert_eq!(sizes(&[cut, elsewhere], 0x4000_0400), [(0, 0x3000_0000)]);
        assert_eq!(sizes(&[whole], 0x4000_0400), []);
    }

    proptest::proptest! {
        /// The model compares every segment with every other.
        #[test]
        fn each_segment_ends_where_memory_is_elsewhere(
            parts in proptest::collection::vec((0u64..8, 0u64..8, 0u64..3, 0u64..8), 0..12),
        ) {
            let segments: Vec<_> = parts.iter().map(|(o, p, f, m)| segment(o << 12, p << 12, f << 12, m << 12)).collect();
            let length = 12 << 12;
            let shift = |(o, p): (u64, u64)| (o << 12).wrapping_sub(p << 12);
            let mut expected = Vec::new();
            for (i, (o, p, f, m)) in parts.iter().enumerate().filter(|(_, (_, _, f, m))| f < m) {
                let elsewhere = parts.iter().filter(|(oo, op, of, _)| *of > 0 && op > p && shift((*oo, *op)) != shift((*o, *p)));
                let elsewhere = elsewhere.map(|(_, op, ..)| (op - p) << 12);
                let size = elsewhere.chain([length - (o << 12), m << 12]).min().unwrap();
                if size > f << 12 {
                    expected.push((i, size));
                }
            }
            proptest::prop_assert_eq!(sizes(&segments, length), expected);
        }
    }

    #[test]
    fn the_header_of_a_compressed_dump_says_which_kernel_it_was() {
        let mut bytes = vec![0; FIRST_PIECE + 4096];
        bytes[FIRST_PIECE..FIRST_PIECE + 8].copy_from_slice(SIGNATURE);
        let machine = FIRST_PIECE + UTSNAME.0 + 4 * UTSNAME.1;
        bytes[machine..machine + 6].copy_from_slice(b"x86_64");
        let mended = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            mend(&mut file, DumpFormat::Kdump).unwrap();
            let mut after = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut after).unwrap();
            after
        };
        assert_eq!(mended(&bytes), bytes, "it is not known");
        bytes.extend(b"VMCOREINFO\0\0OSRELEASE=6.12.3-quiz\nPAGESIZE=4096\n");
        let after = mended(&bytes);
        let texts = after[FIRST_PIECE + UTSNAME.0..].chunks(UTSNAME.1).take(5);
        let texts: Vec<String> =
            texts.map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()).collect();
        assert_eq!(texts, ["Linux", "quiz", "6.12.3-quiz", "#1", "x86_64"]);
        assert_eq!(after.len(), bytes.len());
    }

    #[test]
    fn what_is_no_dump_is_left_alone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        assert!(mend(&mut file, DumpFormat::Elf).is_err());
        assert!(mend(&mut file, DumpFormat::Kdump).is_err());
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
    }
}
