//! The guest's first process: makes the guest ready, runs one program in it, reports, and leaves nothing to wait for.
//!
//! It is static and runs from the initramfs as `/init`. Everything it does comes from the host's first message;
//! it has no configuration, and nothing is decided here that the host could decide.

mod artifacts;
mod boot;
mod devices;
mod inits;
mod kmsg;
mod link;
mod modules;
mod mounts;
mod program;
mod setup;
mod stacks;
mod terminal;

use quiz_proto::{Nonce, Order, ToGuest, ToHost};

use crate::link::{Link, Receiver};

fn main() {
    if std::process::id() != 1 {
        eprintln!("quiz-agent is the first process of a quiz guest; it does nothing anywhere else");
        std::process::exit(125);
    }
    if let Err(e) = boot::early() {
        boot::give_up(&format!("the guest could not be brought up: {e}"));
    }
    let (link, mut receiver) = match boot::open_port().map(Link::new) {
        Ok(ends) => ends,
        Err(e) => boot::give_up(&format!("no channel to the host: {e}")),
    };
    report_panics_on(link.clone());
    link.send(&ToHost::Hello { version: quiz_proto::VERSION });
    match first_order(&mut receiver) {
        Ok(First::Run(nonce, order)) => {
            match setup::prepare(&order.setup, &link) {
                Ok(()) => {
                    program::run(&order.program, nonce, &link, receiver);
                    artifacts::send_all(&link);
                }
                Err(e) => link.send(&ToHost::Failed(e.to_string().into())),
            }
            mounts::write_back(order.setup.write_back);
            link.send(&ToHost::Down { nonce });
        }
        Ok(First::Salvage(nonce, out_serial)) => {
            // The credits for the archive have to be heard.
            program::listen(receiver, &link);
            match setup::mount_out(&out_serial) {
                Ok(()) => artifacts::send_all(&link),
                Err(e) => link.send(&ToHost::Failed(e.to_string().into())),
            }
            link.send(&ToHost::Down { nonce });
        }
        Err(e) => link.send(&ToHost::Failed(e.into())),
    }
    // The host ends the VM. Returning would be a kernel panic.
    loop {
        std::thread::park();
    }
}

enum First {
    Run(Nonce, Box<Order>),
    Salvage(Nonce, String),
}

fn first_order(receiver: &mut Receiver) -> Result<First, String> {
    receiver
        .next(|message| match message {
            ToGuest::Start { nonce, order } => Ok(First::Run(nonce, order)),
            ToGuest::Salvage { nonce, out_serial } => Ok(First::Salvage(nonce, out_serial)),
            _ => Err("the host's first message is not an order".to_owned()),
        })
        .map_err(|e| format!("the host's first message could not be read: {e}"))?
}

/// A panic of the agent ends the guest's first process, which would look like a kernel panic of the user's making.
fn report_panics_on(link: Link) {
    std::panic::set_hook(Box::new(move |info| {
        link.send_if_free(&ToHost::Failed(format!("the agent failed: {info}").into()));
        boot::log(&format!("the agent failed: {info}"));
        loop {
            std::thread::park();
        }
    }));
}
