//! Extracts the kernel from the self-extracting images that distributions ship, and detects PVH
//! entry points. Not for symbols or debug information.

use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};
use std::io::Read;

/// Size limit in bytes, against decompression bombs: no kernel is larger.
const LIMIT: u64 = 1 << 30;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit address where a PVH boot enters the kernel.
const XEN_ELFNOTE_PHYS32_ENTRY: object::elf::NoteType = object::elf::NoteType(18);

/// The kernel inside `image`, decompressed: the ELF file in an x86 bzImage, or the plain image in
/// an EFI zboot image (arm64, riscv). `None` if `image` is neither, or has an unknown compression.
pub fn inner(image: &[u8]) -> Option<Vec<u8>> {
    bzimage_payload(image).or_else(|| zboot_payload(image)).and_then(decompress)
}

/// The compressed part of an x86 bzImage (Documentation/arch/x86/boot.rst).
fn bzimage_payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    // Protocol 2.08 introduced the fields for the payload.
    if image.get(0x202..0x206)? != b"HdrS" || version < 0x208 {
        return None;
    }
    let sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let start = ((sectors + 1) * 512).checked_add(word(0x248)?)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

/// The compressed part of an EFI zboot image (drivers/firmware/efi/libstub/zboot-header.S).
fn zboot_payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0..2)? != b"MZ" || image.get(4..8)? != b"zimg" {
        return None;
    }
    let start = word(8)?;
    image.get(start..start.checked_add(word(12)?)?)
}

fn decompress(data: &[u8]) -> Option<Vec<u8>> {
    // All formats but gzip have the unpacked size appended, which is not part of the stream.
    let bare = data.get(..data.len().checked_sub(4)?)?;
    let reader: Box<dyn Read + '_> = match data {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(data)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(liblzma::read::XzDecoder::new(bare)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(bare).ok()?.single_frame()),
        [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => {
            Box::new(lz4_flex::frame::FrameDecoder::new(bare))
        }
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::BzDecoder::new(bare)),
        [0x5d, 0, 0, ..] => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(u64::MAX).ok()?;
            Box::new(liblzma::read::XzDecoder::new_stream(bare, stream))
        }
        _ => return None,
    };
    let mut kernel = Vec::new();
    let read = reader.take(LIMIT + 1).read_to_end(&mut kernel).ok()?;
    (read as u64 <= LIMIT).then_some(kernel)
}

/// Whether `kernel` is an ELF file with a PVH entry point.
pub fn boots_pvh(kernel: &[u8]) -> bool {
    match FileKind::parse(kernel) {
        Ok(FileKind::Elf64) => FileHeader64::parse(kernel).is_ok_and(|h| has_entry_note(h, kernel)),
        Ok(FileKind::Elf32) => FileHeader32::parse(kernel).is_ok_and(|h| has_entry_note(h, kernel)),
        _ => false,
    }
}

fn has_entry_note<H: FileHeader<Endian = Endianness>>(header: &H, kernel: &[u8]) -> bool {
    let Ok(endian) = header.endian() else { return false };
    let Ok(segments) = header.program_headers(endian, kernel) else { return false };
    segments.iter().any(|segment| {
        let Ok(Some(mut notes)) = segment.notes(endian, kernel) else { return false };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Xen" && note.n_type(endian) == XEN_ELFNOTE_PHYS32_ENTRY {
                return true;
            }
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An ELF64 file with only one note.
    fn elf(name: &[u8; 4], kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4u32, 4, kind] {
            note.extend(word.to_le_bytes());
        }
        note.extend(name);
        note.extend(0x100_0000u32.to_le_bytes());
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(2u16.to_le_bytes());
        file.extend(62u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [0u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(4u32.to_le_bytes());
        file.extend(4u32.to_le_bytes());
        for word in [120u64, 0, 0, note.len() as u64, note.len() as u64, 4] {
            file.extend(word.to_le_bytes());
        }
        assert_eq!(file.len(), 120);
        file.extend(note);
        file
    }

    fn bzimage(payload: &[u8], sectors: u8) -> Vec<u8> {
        let mut image = vec![0u8; 512 * 5];
        image[0x1f1] = sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0xaa; 100]);
        image.extend(payload);
        image.extend([0xbb; 64]);
        image
    }

    #[test]
    fn the_pvh_note_decides() {
        assert!(boots_pvh(&elf(b"Xen\0", 18)));
        assert!(!boots_pvh(&elf(b"Xen\0", 17)));
        assert!(!boots_pvh(&elf(b"GNU\0", 18)));
        assert!(!boots_pvh(b""));
        assert!(!boots_pvh(b"MZ, not ELF at all, but long enough for a header of some kind"));
        // A file truncated anywhere must neither panic nor be accepted.
        let whole = elf(b"Xen\0", 18);
        for length in 0..whole.len() {
            assert!(!boots_pvh(&whole[..length]));
        }
    }

    #[test]
    fn every_compression_comes_out_of_a_bzimage() {
        let kernel = [elf(b"Xen\0", 18), vec![7; 100_000]].concat();
        let size = (kernel.len() as u32).to_le_bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&kernel).unwrap();
        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&kernel).unwrap();
        let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip.write_all(&kernel).unwrap();
        let info = lz4_flex::frame::FrameInfo::new().legacy_frame(true);
        let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        lz4.write_all(&kernel).unwrap();
        let appended = |stream: Vec<u8>| [stream, size.to_vec()].concat();
        for (name, payload) in [
            ("gzip", gzip.finish().unwrap()),
            ("xz", appended(xz.finish().unwrap())),
            ("lzma", appended(lzma.finish().unwrap())),
            ("bzip2", appended(bzip.finish().unwrap())),
            ("lz4", appended(lz4.finish().unwrap())),
            ("zstd", appended(zstd::encode_all(&kernel[..], 1).unwrap())),
        ] {
            assert!(inner(&bzimage(&payload, 4)).as_ref() == Some(&kernel), "{name}");
            // 0 means 4, for the oldest boot loaders.
            assert!(inner(&bzimage(&payload, 0)).as_ref() == Some(&kernel), "{name}");
            let mut cut = bzimage(&payload, 4);
            cut.truncate(2700);
            assert_eq!(inner(&cut), None, "{name} cut off");
        }
        assert_eq!(inner(&bzimage(b"\x89LZO\0\0\0\0", 4)), None);
        assert_eq!(inner(&kernel), None);
    }

    #[test]
    fn an_efi_zboot_image_is_unpacked() {
        let kernel = vec![3u8; 5000];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        let payload = gzip.finish().unwrap();
        let mut image = b"MZ\0\0zimg".to_vec();
        image.extend(64u32.to_le_bytes());
        image.extend((payload.len() as u32).to_le_bytes());
        image.resize(64, 0);
        image.extend(&payload);
        assert_eq!(inner(&image), Some(kernel));
    }
}
