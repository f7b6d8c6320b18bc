//! The decoder against whole, divided and hostile input.

use std::borrow::Cow;

use proptest::prelude::*;
use quiz_proto::*;

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdin), Just(Stream::Stdout), Just(Stream::Stderr), Just(Stream::Artifacts)]
}

fn program() -> impl Strategy<Value = ProgramId> {
    any::<u32>().prop_map(ProgramId)
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        any::<u8>().prop_map(Status::Code),
        any::<u8>().prop_map(Status::Signal),
        Just(Status::NotFound),
        any::<i32>().prop_map(Status::NotExecutable),
    ]
}

fn to_host() -> impl Strategy<Value = ToHost<'static>> {
    prop_oneof![
        any::<u32>().prop_map(|version| ToHost::Hello { version }),
        Just(ToHost::Started),
        Just(ToHost::Pulse),
        (program(), stream(), proptest::collection::vec(any::<u8>(), 0..CHUNK)).prop_map(|(id, s, b)| ToHost::Data(
            id,
            s,
            Cow::Owned(b)
        )),
        (program(), stream()).prop_map(|(id, s)| ToHost::Eof(id, s)),
        (program(), stream(), any::<u32>()).prop_map(|(id, s, n)| ToHost::Credit(id, s, n)),
        (program(), status()).prop_map(|(id, status)| ToHost::Ended { id, status }),
        (0u8..8, any::<u64>(), ".*").prop_map(|(level, micros, t)| ToHost::Kernel {
            level,
            micros,
            text: Cow::Owned(t)
        }),
        (any::<[u8; 16]>(), status()).prop_map(|(nonce, status)| ToHost::Exited { nonce, status }),
        ".*".prop_map(|t| ToHost::Failed(Cow::Owned(t))),
        ".*".prop_map(|t| ToHost::Log(Cow::Owned(t))),
        any::<u64>().prop_map(ToHost::Tainted),
        ".*".prop_map(|t| ToHost::Broken(Cow::Owned(t))),
        ".*".prop_map(|t| ToHost::Spoilt(Cow::Owned(t))),
        any::<[u8; 16]>().prop_map(|nonce| ToHost::Down { nonce }),
        any::<[u64; 3]>().prop_map(|[stdout, stderr, artifacts]| ToHost::Sent(Sent { stdout, stderr, artifacts })),
    ]
}

fn owned(m: ToHost<'_>) -> ToHost<'static> {
    match m {
        ToHost::Data(id, s, b) => ToHost::Data(id, s, Cow::Owned(b.into_owned())),
        ToHost::Kernel { level, micros, text } => ToHost::Kernel { level, micros, text: Cow::Owned(text.into_owned()) },
        ToHost::Failed(t) => ToHost::Failed(Cow::Owned(t.into_owned())),
        ToHost::Note(t) => ToHost::Note(Cow::Owned(t.into_owned())),
        ToHost::Stacks(t) => ToHost::Stacks(Cow::Owned(t.into_owned())),
        ToHost::Hello { version } => ToHost::Hello { version },
        ToHost::Ready => ToHost::Ready,
        ToHost::Begun => ToHost::Begun,
        ToHost::Started => ToHost::Started,
        ToHost::Pulse => ToHost::Pulse,
        ToHost::Eof(id, s) => ToHost::Eof(id, s),
        ToHost::Credit(id, s, n) => ToHost::Credit(id, s, n),
        ToHost::Close(id, s) => ToHost::Close(id, s),
        ToHost::Ended { id, status } => ToHost::Ended { id, status },
        ToHost::StacksEnd => ToHost::StacksEnd,
        ToHost::Exited { nonce, status } => ToHost::Exited { nonce, status },
        ToHost::Down { nonce } => ToHost::Down { nonce },
        ToHost::Sent(sent) => ToHost::Sent(sent),
        ToHost::Log(t) => ToHost::Log(t.into_owned().into()),
        ToHost::Tainted(bits) => ToHost::Tainted(bits),
        ToHost::Broken(t) => ToHost::Broken(t.into_owned().into()),
        ToHost::Spoilt(t) => ToHost::Spoilt(t.into_owned().into()),
    }
}

proptest! {
    #[test]
    fn any_division_of_the_bytes_gives_the_same_messages(
        messages in proptest::collection::vec(to_host(), 0..12),
        cuts in proptest::collection::vec(1usize..5000, 1..8),
    ) {
        let mut wire = Vec::new();
        for m in &messages {
            encode(m, &mut wire).unwrap();
        }
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        let mut rest = wire.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            rest = later;
            decoder.push(now);
            while let Some(m) = decoder.next::<ToHost>().unwrap() {
                got.push(owned(m));
            }
        }
        prop_assert_eq!(got, messages);
        prop_assert_eq!(decoder.pending(), 0);
    }

    #[test]
    fn hostile_bytes_never_panic_nor_grow_the_buffer(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40),
    ) {
        let mut decoder = Decoder::default();
        for piece in pieces {
            decoder.push(&piece);
            loop {
                match decoder.next::<ToHost>() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
            prop_assert!(decoder.pending() <= 4 + MAX_MESSAGE);
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_another_message_but_never_out_of_bounds(
        m in to_host(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let mut wire = Vec::new();
        encode(&m, &mut wire).unwrap();
        let i = at.index(wire.len());
        wire[i] ^= 1 << bit;
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        if let Ok(Some(got)) = decoder.next::<ToHost>() {
            prop_assert_ne!(owned(got), m);
        }
    }
}

#[test]
fn a_length_beyond_the_bound_is_refused_before_it_is_buffered() {
    let mut decoder = Decoder::default();
    decoder.push(&u32::try_from(MAX_MESSAGE + 1).unwrap().to_le_bytes());
    assert_eq!(decoder.next::<ToHost>(), Err(FrameError::TooLong(MAX_MESSAGE + 1)));
}

#[test]
fn bytes_behind_a_message_inside_its_frame_are_refused() {
    let mut wire = Vec::new();
    encode(&ToHost::Pulse, &mut wire).unwrap();
    wire.push(7);
    wire[0] += 1;
    let mut decoder = Decoder::default();
    decoder.push(&wire);
    assert_eq!(decoder.next::<ToHost>(), Err(FrameError::Trailing(1)));
}

#[test]
fn start_carries_arguments_exactly() {
    let program = Program {
        argv: vec![b"sh".to_vec(), b"".to_vec(), b"a b\n'\"".to_vec(), vec![0xff, 0xfe]],
        env: vec![(b"A".to_vec(), b"=\n".to_vec())],
        cwd: vec![b"/".to_vec()],
        terminal: Some(WinSize { rows: 24, cols: 80 }),
        separate_stderr: true,
        shell_after: false,
    };
    let message = ToGuest::Start {
        nonce: [3; 16],
        order: Box::new(Order { personal: Personal::default(), program, messages: None, keep: false, strict: false }),
    };
    let mut wire = Vec::new();
    encode(&message, &mut wire).unwrap();
    let mut decoder = Decoder::default();
    decoder.push(&wire);
    assert_eq!(decoder.next::<ToGuest>().unwrap(), Some(message));
}

#[test]
fn a_message_that_does_not_fit_a_frame_is_refused_and_leaves_nothing() {
    let mut wire = vec![1, 2, 3];
    let refused = encode(&ToHost::Failed("x".repeat(MAX_MESSAGE).into()), &mut wire);
    assert!(matches!(refused, Err(TooLong(n)) if n > MAX_MESSAGE), "{refused:?}");
    assert_eq!(wire, [1, 2, 3]);
}
