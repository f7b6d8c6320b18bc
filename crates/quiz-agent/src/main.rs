//! The guest's first process: it prepares the guest, runs one program in it, and reports the
//! result.
//!
//! The agent is a static binary that the kernel runs from the initramfs as `/init`. It has no
//! configuration: the host's messages decide everything that the host can decide.

mod artifacts;
mod boot;
mod devices;
mod disks;
mod inits;
mod kmsg;
mod link;
mod log;
mod modules;
mod mounts;
mod program;
mod programs;
mod setup;
mod stacks;
mod terminal;

use quiz_proto::{Moment, Nonce, Order, System, ToGuest, ToHost};

use crate::link::{Link, Receiver};

fn main() {
    if std::process::id() != 1 {
        eprintln!("quiz-agent is the first process of a quiz guest; it does nothing anywhere else");
        std::process::exit(125);
    }
    if let Err(e) = boot::early() {
        crate::log::give_up(&format!("the guest could not be brought up: {e}"));
    }
    let (link, receiver) = match boot::open_port().map(Link::new) {
        Ok(ends) => ends,
        Err(e) => crate::log::give_up(&format!("no channel to the host: {e}")),
    };
    report_panics_on(link.clone());
    link.send(&ToHost::Hello { version: quiz_proto::VERSION });
    if let Err(e) = obey(&link, receiver) {
        link.send(&ToHost::Failed(e.into()));
    }
    // The host ends the VM. Returning would be a kernel panic.
    loop {
        std::thread::park();
    }
}

/// Carries out the host's orders until the run is over.
fn obey(link: &Link, mut receiver: Receiver) -> Result<(), String> {
    let order = next(&mut receiver)?;
    link.send(&ToHost::Begun);
    let identity = match order {
        First::Prepare(moment, system) => setup::prepare(&moment, &system).map_err(|e| e.to_string())?,
        First::Salvage(nonce, out_serial) => {
            // Sending the archive needs the credits that the host sends.
            programs::listen(receiver, link);
            setup::mount_out(&out_serial).map_err(|e| e.to_string())?;
            artifacts::send_all(link);
            link.send(&ToHost::Sent(link.sent()));
            link.send(&ToHost::Down { nonce });
            return Ok(());
        }
        _ => return Err("the host wants to start what is not prepared".to_owned()),
    };
    program::rehearse(&program::nothing());
    let (nonce, order) = loop {
        // The host may save the VM here: what follows may run in a resumed copy of the VM.
        link.send(&ToHost::Ready);
        let order = next(&mut receiver)?;
        link.send(&ToHost::Begun);
        match order {
            First::Start(nonce, order) => break (nonce, order),
            First::Rehearse(order) => rehearse(&order, &identity).map_err(|e| e.to_string())?,
            _ => return Err("the host's second message is not an order to start".to_owned()),
        }
    };
    let mut watch = order.strict.then(kmsg::Watch::start);
    setup::personalize(&order.personal, &identity).map_err(|e| e.to_string())?;
    programs::run(&order, nonce, link, receiver, watch.as_mut());
    artifacts::send_all(link);
    let writable = order.personal.shares.iter().any(|share| share.writable);
    let kept = if order.personal.write_back { &order.personal.changed[..] } else { &[] };
    mounts::write_back(writable, kept, |what| {
        link.send(&ToHost::Spoilt(format!("what the run has written cannot all be kept: {what}").into()));
    });
    if let Some(watch) = &mut watch {
        watch.tell(link);
    }
    link.send(&ToHost::Sent(link.sent()));
    link.send(&ToHost::Down { nonce });
    Ok(())
}

/// Performs the steps of a run, then undoes them.
fn rehearse(order: &Order, identity: &setup::Identity) -> std::io::Result<()> {
    setup::personalize(&order.personal, identity)?;
    program::rehearse(&program::nothing_like(&order.program));
    artifacts::rehearse();
    setup::forget(&order.personal, identity)
}

enum First {
    Prepare(Moment, Box<System>),
    Rehearse(Box<Order>),
    Start(Nonce, Box<Order>),
    Salvage(Nonce, String),
}

fn next(receiver: &mut Receiver) -> Result<First, String> {
    receiver
        .next(|message| match message {
            ToGuest::Prepare { moment, system } => Ok(First::Prepare(moment, system)),
            ToGuest::Rehearse { order } => Ok(First::Rehearse(order)),
            ToGuest::Start { nonce, order } => Ok(First::Start(nonce, order)),
            ToGuest::Salvage { nonce, out_serial } => Ok(First::Salvage(nonce, out_serial)),
            _ => Err("the host's message is not an order".to_owned()),
        })
        .map_err(|e| format!("the host's message could not be read: {e}"))?
}

/// Reports panics of the agent to the host. Such a panic ends the guest's first process, which
/// would look like a kernel panic that the user caused.
fn report_panics_on(link: Link) {
    std::panic::set_hook(Box::new(move |info| {
        link.send_if_free(&ToHost::Broken(format!("the agent failed: {info}").into()));
        crate::log::log(&format!("the agent failed: {info}"));
        loop {
            std::thread::park();
        }
    }));
}
